"""Random schedules of mixed jobs on the simulated card: each picture must be the processor's, and no hazard be met.

A schedule is drawn once and played on both devices: images of two sizes, of all samplers, lengths of prompt and
guidance, join and leave the batches of `DeviceStepBatch`, each on a stream of its own, and are decoded on two more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from trt_engines.backend import EngineSpec
from trt_engines.backends.rowwise import rowwise_network
from trt_engines.bucket import Bucket
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import DeviceProperties, HostComputingDevice, Stream
from trt_engines.devices.memory import Buffer
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.devices.simulated.hazards import Hazard
from trt_engines.interface import CLIP_TOKENS, interface_of
from trt_engines.model import Component, Model, find_models
from trt_engines.sessions.bound import BoundEngine
from trt_engines.sessions.host import HostPlan, HostSession, host_plan
from trt_worker.batch.admission import BatchKey
from trt_worker.decode.device_decoder import Decoded, DeviceDecoder
from trt_worker.denoise.samplers import SAMPLERS
from trt_worker.denoise.start import Sampling, parameterisation_of, start
from trt_worker.runtime.device_step_batch import DeviceStepBatch
from trt_worker.runtime.step_batch import Row

SCHEDULES = 1000
MODEL = "shapes-tiny"
SIZES = ((64, 64), (128, 64))
CAPACITY = 3
MOST_JOBS = 9
WITHDRAWN = 0.15
"""Share of the turns in which a job that was begun is given up."""

CARD = DeviceProperties(name="a simulated card", sm=89, memory_bytes=1 << 26, multiprocessors=128)

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What one image of a schedule asks for."""

    job: str
    size: tuple[int, int]  # width and height, pixels
    sampler: str
    steps: int
    guidance: float
    chunks: int  # of its prompt; the negative prompt has one
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What happens between two steps, and whose step is next."""

    join: tuple[Image, ...]
    leave: tuple[str, ...]
    step: tuple[int, int] | None  # the size of the batch; None: none


def schedule(seed: int) -> tuple[Turn, ...]:
    """A random schedule that ends when all its images have joined; what is left then is stepped to its end."""
    random = Random(seed)
    waiting = deque(_an_image(random, number) for number in range(random.randint(3, MOST_JOBS)))
    begun: list[str] = []
    turns = []
    while waiting:
        join = tuple(waiting.popleft() for _ in range(random.randint(0, min(2, len(waiting)))))
        begun.extend(image.job for image in join)
        leave = (random.choice(begun),) if begun and random.random() < WITHDRAWN else ()
        turns.append(Turn(join=join, leave=leave, step=random.choice((*SIZES, None))))
    return tuple(turns)


def play(turns: tuple[Turn, ...], model: Model, device: HostComputingDevice) -> dict[str, Picture]:
    """The pictures that a device makes of a schedule, by job.

    Raises: Hazard: a strict device met one. RuntimeError: a picture came back that is not finite.
    """
    benches = {size: _Bench(device, model, size) for size in SIZES}
    for turn in turns:
        for image in turn.join:
            benches[image.size].take(image)
        for job in turn.leave:
            for bench in benches.values():
                bench.leave(job)
        if turn.step is not None:
            benches[turn.step].step()
    while any(bench.busy for bench in benches.values()):
        for bench in benches.values():
            bench.step()
    pictures: dict[str, Picture] = {}
    for bench in benches.values():
        pictures |= bench.finish()
    device.close()
    return pictures


def a_card(seed: int) -> HostComputingDevice:
    """A strict card that works in the order of a seed."""
    return SimulatedDevice(CARD, seed=seed)


def schedule_figures(
    schedules: int = SCHEDULES, card: Callable[[int], HostComputingDevice] = a_card
) -> dict[str, float]:
    """The figures of some schedules, each played on the processor and on a card of its own.

    Raises: RuntimeError: a picture is not the processor's; the message names the schedule and the job.
    """
    model = find_models()[MODEL]
    hazards = pictures = 0
    for seed in range(schedules):
        turns = schedule(seed)
        expected = play(turns, model, CpuDevice())
        try:
            found = play(turns, model, card(seed))
        except Hazard:
            hazards += 1
            continue
        if wrong := [job for job in expected if not np.array_equal(found[job], expected[job])]:
            raise RuntimeError(f"schedule {seed}: {', '.join(wrong)} came out differently on the simulated card")
        pictures += len(found)
    return {"schedules_run": schedules, "schedules_hazards": hazards, "schedules_pictures": pictures}


class _Bench:
    """All images of one size on a device, as its loop would run them."""

    def __init__(self, device: HostComputingDevice, model: Model, size: tuple[int, int]) -> None:
        self._device, self._model, self._size = device, model, size
        self._stream = device.create_stream(f"denoise {size}")
        width, height = size
        self._latent = (model.latent_channels, height // model.latent_scale, width // model.latent_scale)
        key = BatchKey(model=model.name, backend="rowwise", width=width, height=height)
        self._engines: dict[int, BoundEngine] = {}
        self._batch = DeviceStepBatch(key, CAPACITY, self._latent, device, self._stream, self._denoiser)
        decoder = self._engine(Component.VAE_DECODER, CLIP_TOKENS, 1, device.create_stream(f"decode {size}"))
        self._decoder: DeviceDecoder[str] = DeviceDecoder(device, decoder)
        self._decoding = 0
        self._waiting: deque[Image] = deque()
        self._pictures: dict[str, Picture] = {}

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._batch.rows)

    def take(self, image: Image) -> None:
        self._waiting.append(image)

    def leave(self, job: str) -> None:
        self._waiting = deque(image for image in self._waiting if image.job != job)
        self._batch.leave(job)

    def step(self) -> None:
        while self._waiting and self._batch.room:
            self._batch.join(_row(self._waiting.popleft(), self._model, self._latent))
        if self._batch.rows:
            self._batch.step(self._hand_out)
        for one in self._decoder.finished():
            self._keep(one)

    def finish(self) -> dict[str, Picture]:
        while self._decoding:
            self._keep(self._decoder.wait())
        self._decoder.close()
        self._batch.close()
        return self._pictures

    def _hand_out(self, row: Row, latent: Buffer) -> None:
        if not self._decoder.room:
            self._keep(self._decoder.wait())
        self._decoder.begin(row.job, latent, self._stream)
        self._decoding += 1

    def _keep(self, one: Decoded[str]) -> None:
        if not one.finite:
            raise RuntimeError(f"{one.tag} came back as not finite")
        self._decoding -= 1
        self._pictures[one.tag] = one.pixels

    def _denoiser(self, tokens: int) -> BoundEngine:
        if tokens not in self._engines:
            self._engines[tokens] = self._engine(Component.DENOISER, tokens, 2 * CAPACITY, self._stream)
        return self._engines[tokens]

    def _engine(self, component: Component, tokens: int, rows: int, stream: Stream) -> BoundEngine:
        width, height = self._size
        spec = EngineSpec(
            model=self._model,
            component=component,
            bucket=Bucket(width=width, height=height, rows=rows, tokens=tokens),
        )
        interface = interface_of(spec)
        return BoundEngine(self._device, HostSession(self._device, _plan(spec)), interface, stream)


def _plan(spec: EngineSpec) -> HostPlan:
    """An engine without weights: they would only be memory to fill."""
    return replace(host_plan(spec, interface_of(spec), rowwise_network(spec)), weight_bytes=0)


def _an_image(random: Random, number: int) -> Image:
    return Image(
        job=str(number),
        size=random.choice(SIZES),
        sampler=random.choice(tuple(SAMPLERS)),
        steps=random.randint(1, 4),
        guidance=random.choice((1.0, 3.0, 7.5)),
        chunks=random.choice((1, 1, 2, 5)),
        seed=random.getrandbits(32),
    )


def _row(image: Image, model: Model, latent: tuple[int, int, int]) -> Row:
    sampling = Sampling(
        sampler=image.sampler, scheduler="karras", steps=image.steps, guidance=image.guidance, strength=1.0
    )
    begun = start(sampling, parameterisation_of(model), latent, seed=image.seed, draw=0, latent=None)
    random = np.random.default_rng(image.seed)
    positive, negative = (
        random.uniform(-1, 1, (CLIP_TOKENS * chunks, model.context_width)).astype(np.float32)
        for chunks in (image.chunks, 1)
    )
    return Row(
        job=image.job,
        index=0,
        program=begun.program,
        start=begun.sample,
        noise=begun.noise,
        positive=positive,
        negative=negative if image.guidance != 1.0 else None,
    )
