"""A card's clock: what runs at the same time shares it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from trt_engines.costs.hardware import Arithmetic, Hardware
from trt_engines.costs.roofline import copy_seconds, evaluation_seconds, occupancy
from trt_engines.costs.work import NetworkWork
from trt_perf.simulation.trace import GUIDANCE_ROWS, Family


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Something that runs on a stream."""

    seconds: float  # if it has the card to itself
    share: float  # of the card that it keeps busy meanwhile, 0..1; 0: it runs elsewhere


class Costs(Protocol):
    """What the stages of a job cost; a simulated device's cost function fits in here."""

    def text(self, family: Family, prompts: int) -> Activity:
        """All text encoders, for both prompts of a job."""

    def step(self, family: Family, width: int, height: int, images: int, tokens: int) -> Activity:
        """One denoising step of a batch."""

    def decode(self, family: Family, width: int, height: int) -> Activity:
        """One latent to pixels."""

    def copy(self, width: int, height: int) -> Activity:
        """One image's uint8 pixels to the host."""


class CardCosts:
    """The cost model's answer for a card whose engines run as CUDA graphs.

    Denoisers and text encoders sum in float16, as the published TensorRT speeds of GeForce cards do; the decoder is
    bfloat16, since half precision overflows in it.
    """

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware

    def text(self, family: Family, prompts: int) -> Activity:
        parts = [self._call(network, prompts, 0, 0, 77, Arithmetic.FLOAT16_SUMS) for network in family.text_encoders]
        seconds = sum(part.seconds for part in parts)
        return Activity(seconds=seconds, share=sum(part.seconds * part.share for part in parts) / seconds)

    def step(self, family: Family, width: int, height: int, images: int, tokens: int) -> Activity:
        return self._call(family.denoiser, GUIDANCE_ROWS * images, width, height, tokens, Arithmetic.FLOAT16_SUMS)

    def decode(self, family: Family, width: int, height: int) -> Activity:
        return self._call(family.decoder, 1, width, height, 77, Arithmetic.FLOAT16)

    def copy(self, width: int, height: int) -> Activity:
        return Activity(seconds=copy_seconds(3 * width * height, self._hardware), share=0.0)

    def _call(
        self, network: NetworkWork, rows: int, width: int, height: int, tokens: int, arithmetic: Arithmetic
    ) -> Activity:
        work = network.work(rows=rows, width=width, height=height, tokens=tokens)
        return Activity(
            seconds=evaluation_seconds(work, self._hardware, arithmetic),
            share=occupancy(work, self._hardware, arithmetic),
        )


class Card:
    """Streams of one card on a simulated clock.

    Activities of different streams run at full speed while the shares that they keep busy add up to no more than the
    card; beyond that all are slowed alike. So overlapping fills what one alone leaves idle and gains nothing else.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._left: dict[str, float] = {}  # seconds of its own, by stream
        self._share: dict[str, float] = {}

    def busy(self, stream: str) -> bool:
        """Whether something runs there."""
        return stream in self._left

    def start(self, stream: str, activity: Activity) -> None:
        """Begin on an idle stream. Raises: ValueError: it is not."""
        if stream in self._left:
            raise ValueError(f"stream {stream} is busy")
        self._left[stream], self._share[stream] = activity.seconds, activity.share

    def advance(self, until: float) -> str | None:
        """Let time pass to the next end of an activity, or to `until` if that comes first.

        Returns: the stream whose activity has ended; None: `until` came first.
        """
        speed = 1.0 / max(1.0, sum(self._share.values()))
        stream = min(self._left, key=self._left.__getitem__, default=None)
        if stream is None or self.now + self._left[stream] / speed > until:
            self._pass(until - self.now, speed)
            self.now = until
            return None
        seconds = self._left[stream] / speed
        self._pass(seconds, speed)
        self.now += seconds
        del self._left[stream], self._share[stream]
        return stream

    def _pass(self, seconds: float, speed: float) -> None:
        for stream in self._left:
            self._left[stream] -= seconds * speed
