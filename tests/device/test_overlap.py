"""What runs side by side on a card, on the clock of one whose parts take seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from trt_engines.backend import Engine, EngineSpec
from trt_engines.backends.dummy import dummy_network
from trt_engines.backends.host_source import NetworkSource
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.devices.device import DeviceProperties, Event, Stream
from trt_engines.devices.operations import CopyOperation, Direction, NetworkOperation, Operation
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.model import find_models
from trt_engines.residency import Memory
from trt_worker import frames
from trt_worker.denoise.program import TENSORS
from trt_worker.device.loop import DeviceLoop
from trt_worker.device.step_batch import STEPS_AHEAD
from trt_worker.job import ImageSeed

CARD = DeviceProperties(name="a card", sm=89, memory_bytes=1 << 28, multiprocessors=128)
TEXT, STEP, DECODE, DOWNLOAD = 2.0, 1.0, 5.0, 0.5
ROW = TENSORS * 4 * 8 * 8 * 4  # bytes of all tensors of a row of 64x64 pixels
PICTURES = (64 * 64 * 3, 128 * 64 * 3)


def seconds(operation: Operation) -> float:
    match operation:
        case NetworkOperation(engine=engine):
            component = engine.partition("/")[2]
            return {"text_encoder": TEXT, "denoiser": STEP, "vae_decoder": DECODE}[component]
        case CopyOperation(direction=Direction.DOWNLOAD, size=size) if size in PICTURES:
            return DOWNLOAD
        case _:
            return 0.0


class Card(SimulatedDevice):
    """Has room for four kernels at a time, and notes what the host waited for.

    Args: move: seconds in which a row moves to another place of its batch.
    """

    def __init__(self, move: float = 0.0) -> None:
        self._move = move
        super().__init__(CARD, seconds=self._charge, share=lambda operation: 0.25)
        self.waits: list[str] = []
        self.asked = 0  # calls of denoisers

    def _charge(self, operation: Operation) -> float:
        self.asked += isinstance(operation, NetworkOperation) and operation.engine.endswith("denoiser")
        if isinstance(operation, CopyOperation) and operation.size == ROW:
            return self._move
        return seconds(operation)

    def synchronize(self, target: Stream | Event) -> None:
        before = self.clock
        super().synchronize(target)
        if self.clock > before:
            self.waits.append(target.label)


class Loading(OnDeviceBackend):
    """Free networks, of which some take the host seconds to load, by component."""

    def __init__(self, name: str, card: Card, seconds: Mapping[str, float]) -> None:
        super().__init__(name, NetworkSource(dummy_network, card))
        self._card, self._load_seconds = card, seconds

    def load(self, spec: EngineSpec, stream: Stream) -> Engine:
        self._card.advance(self._load_seconds.get(spec.network, 0.0))
        return super().load(spec, stream)


class Bench:
    """A loop whose clock is its card's."""

    def __init__(self, card: Card | None = None, load_seconds: Mapping[str, float] | None = None) -> None:
        self.card = card or Card()
        self.made: dict[str, float] = {}  # when
        self.timings: dict[str, frames.Made] = {}
        self.progress: list[tuple[float, float]] = []  # when, and how much was said to be done
        backend = Loading("free", self.card, load_seconds or {})
        self.loop = DeviceLoop(
            find_models(),
            {"free": backend},
            max_rows=4,
            budgets=dict.fromkeys(Memory, 2**30),
            emit=self._emit,
            clock=lambda: self.card.clock,
        )

    def finish(self) -> float:
        while self.loop.busy:
            self.loop.step()
        return self.card.clock

    def _emit(self, header: frames.FromDevice, body: Any) -> None:
        if isinstance(header, frames.Made):
            self.made[header.id] = self.card.clock
            self.timings[header.id] = header
        elif isinstance(header, frames.Progress):
            self.progress.append((self.card.clock, header.fraction))


@pytest.fixture
def a_job(a_run: Callable[..., frames.Run]) -> Callable[..., frames.Run]:
    def make(job: str, **changes: Any) -> frames.Run:
        return a_run(job, **({"backend": "free", "guidance": 1.0, "received": 0.0, "due": 1e9} | changes))

    return make


def test_a_job_alone_takes_its_stages_one_after_the_other(a_job: Any) -> None:
    bench = Bench()

    bench.loop.take(a_job("only", steps=10), b"")

    assert bench.finish() == TEXT + 10 * STEP + DECODE + DOWNLOAD


def test_a_picture_is_decoded_while_other_rows_go_on(a_job: Any) -> None:
    bench = Bench()

    bench.loop.take(a_job("short", steps=1), b"")
    bench.loop.take(a_job("long", steps=10), b"")

    assert bench.finish() == TEXT + 10 * STEP + DECODE + DOWNLOAD
    assert bench.made["short"] < bench.made["long"]


def test_a_prompt_is_encoded_while_other_rows_step_and_nobody_waits_for_it(a_job: Any) -> None:
    bench = Bench()
    bench.loop.take(a_job("first", steps=10), b"")
    for _ in range(5):
        bench.loop.step()

    bench.loop.take(a_job("second", prompt="another", steps=4), b"")
    end = bench.finish()

    second_steps_last = TEXT + 9 * STEP
    assert end == second_steps_last + 2 * DECODE + DOWNLOAD
    assert not [label for label in bench.card.waits[1:] if "text" in label]


def test_a_decoder_is_loaded_while_the_card_is_at_the_steps_before(a_job: Any) -> None:
    bench = Bench(load_seconds={"vae_decoder": STEPS_AHEAD * STEP})

    bench.loop.take(a_job("only", steps=10), b"")

    assert bench.finish() == TEXT + 10 * STEP + DECODE + DOWNLOAD


def test_a_source_that_is_no_image_has_no_prompt_encoded(a_job: Any) -> None:
    bench = Bench()

    bench.loop.take(a_job("bad"), b"no image")
    bench.card.close()

    assert bench.card.clock == 0


def test_batches_of_two_sizes_step_at_the_same_time(a_job: Any) -> None:
    bench = Bench()

    bench.loop.take(a_job("square", steps=10), b"")
    bench.loop.take(a_job("wide", steps=10, width=128), b"")

    serial = TEXT + 20 * STEP + 2 * (DECODE + DOWNLOAD)
    assert bench.finish() <= serial - 10 * STEP


def test_a_later_size_steps_beside_the_first_before_any_picture_was_decoded(a_job: Any) -> None:
    bench = Bench()

    bench.loop.take(a_job("square", steps=30), b"")
    bench.loop.take(a_job("wide", steps=30, width=128, received=1.0), b"")

    assert bench.finish() <= TEXT + 32 * STEP + 2 * (DECODE + DOWNLOAD)


def test_the_host_is_ahead_of_the_card_by_what_it_may_and_waits_for_nothing_else(a_job: Any) -> None:
    bench = Bench()
    bench.loop.take(a_job("only", steps=20), b"")
    while bench.card.asked < 20:
        bench.loop.step()
        done = round((bench.card.clock - TEXT) / STEP)
        assert bench.card.asked - done <= STEPS_AHEAD
        if done > 0 and bench.card.asked < 20:
            assert bench.card.asked - done >= STEPS_AHEAD - 1

    assert bench.card.waits[0].startswith("a call of shapes-tiny/text_encoder")  # there was nothing else to do
    assert all(label.startswith("step") for label in bench.card.waits[1:])


def test_time_in_which_batches_step_together_is_counted_once(a_job: Any) -> None:
    bench, totals = Bench(), []
    bench.loop._emit = lambda header, body: totals.append(header) if isinstance(header, frames.Totals) else None

    bench.loop.take(a_job("square", steps=10), b"")
    bench.loop.take(a_job("wide", steps=10, width=128), b"")
    bench.finish()

    last = totals[-1]
    assert last.calls == 20
    assert last.loop_seconds <= bench.card.clock - TEXT
    assert last.engine_seconds <= last.loop_seconds


def test_a_picture_that_is_back_before_its_batch_has_moved_together_counts_its_last_step(a_job: Any) -> None:
    bench = Bench(Card(move=100.0))
    bench.loop.take(a_job("short", steps=1, due=1e8), b"")
    bench.loop.take(a_job("others", steps=2, seeds=tuple(ImageSeed(value=1, draw=draw) for draw in range(3))), b"")
    while not bench.card.asked:
        bench.loop.step()

    bench.loop.take(a_job("fifth", steps=1), b"")  # which finds all slots of the decoder taken
    bench.finish()

    timing = bench.timings["short"]
    assert TEXT + STEP <= timing.denoised <= timing.decoded
    assert timing.engine_seconds == STEP / 4


def test_progress_is_what_the_card_has_done_and_not_what_it_was_asked_for(a_job: Any) -> None:
    bench = Bench()

    bench.loop.take(a_job("only", steps=8), b"")
    bench.finish()

    assert bench.progress == [(TEXT + done * STEP, done / 8) for done in range(1, 9)]


def test_steps_of_a_job_that_was_withdrawn_are_measured_when_they_end_and_not_when_the_next_job_comes(
    a_job: Any,
) -> None:
    bench = Bench()
    bench.loop.take(a_job("withdrawn", steps=10), b"")
    while bench.card.asked < 2:
        bench.loop.step()
    bench.loop.withdraw("withdrawn")
    bench.finish()

    bench.card.advance(3600.0)
    bench.loop.take(a_job("next", steps=2), b"")
    bench.finish()

    assert bench.loop._totals.frame.loop_seconds <= 5 * STEP
