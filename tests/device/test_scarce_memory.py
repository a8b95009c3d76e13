"""Jobs of three models on a card that is short of memory and refuses it at any moment, while others are withdrawn.

Nothing is promised of which jobs are made. What is made is what the processor makes; every other job is withdrawn or
given up with a reason; the loop comes to its end, meets no hazard, and gives back all that it took.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.backend import Engine, EngineSpec
from trt_engines.backends.host_source import NetworkSource
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.backends.rowwise import ROWWISE, rowwise_backend, rowwise_network
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import Stream
from trt_engines.devices.memory import Buffer, Place
from trt_engines.devices.operations import Operation
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import OutOfMemory
from trt_engines.model import find_models
from trt_engines.residency import Footprint, Memory
from trt_perf.schedules import CARD, NAMES, a_job
from trt_worker import frames
from trt_worker.device.loop import DeviceLoop

MIB = 2**20
MODELS = {name: replace(find_models()["shapes-tiny"], name=name) for name in (*NAMES, "third")}
WEIGHTS = {
    "text_encoder": 20 * MIB,
    "denoiser": 100 * MIB,
    "vae_decoder": 30 * MIB,
    "vae_encoder": 25 * MIB,
}
BUDGETS = (170 * MIB, 220 * MIB, 300 * MIB, 500 * MIB, 2000 * MIB)  # from one denoiser at a time to all
CARDS = (400_000, 1 << 20, 1 << 26)  # bytes: the smallest has no room for a batch's contexts and pictures at once
REFUSALS = (0.0, 0.005, 0.02, 0.1)  # share of the loads, calls and allocations
WITHDRAWN = 0.03  # share of the steps
MOST_STEPS = 20_000


class Scarce(SimulatedDevice):
    """A card that refuses some allocations, in either place."""

    def __init__(self, seed: int, memory: int, refused: float) -> None:
        seconds, self._random, self._refused = Random(seed), Random(seed), refused

        def charge(operation: Operation) -> float:
            return seconds.choice((0.0, 1e-4, 1e-3, 5e-3))

        super().__init__(replace(CARD, memory_bytes=memory), seed=seed, seconds=charge)

    def allocate(self, size: int, place: Place = Place.DEVICE) -> Buffer:
        if self._random.random() < self._refused:
            raise OutOfMemory("the card is full: the test asked for it")
        return super().allocate(size, place)


class Sized(NetworkSource):
    """Networks that say that they need memory, more of it for more rows and tokens."""

    def footprint(self, spec: EngineSpec) -> Footprint:
        inputs = spec.bucket.rows * spec.bucket.tokens // 77
        return Footprint(weights=WEIGHTS[spec.network], activations=5 * MIB * inputs, tensors=3 * MIB * inputs)


class Refusing(OnDeviceBackend):
    """A backend some of whose loads and calls find no memory."""

    def __init__(self, device: SimulatedDevice, seed: int, refused: float) -> None:
        super().__init__(ROWWISE, Sized(rowwise_network, device))
        self._random, self._refused = Random(seed), refused

    def load(self, spec: EngineSpec, stream: Stream) -> Engine:
        self._maybe_refuse()
        engine = super().load(spec, stream)
        run = engine.run

        def refusing(rows: int) -> None:
            self._maybe_refuse()
            run(rows)

        engine.run = refusing  # type: ignore[method-assign]
        return engine

    def _maybe_refuse(self) -> None:
        if self._random.random() < self._refused:
            raise OutOfMemory("the library finds no room: the test asked for it")


class Said:
    """What a loop sends."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.failed: dict[str, str] = {}
        self.pictures: dict[tuple[str, int], NDArray[np.uint8]] = {}

    def emit(self, header: frames.FromDevice, body: NDArray[np.uint8] | None) -> None:
        match header:
            case frames.Pixels() if body is not None:
                self.pictures[header.id, header.index] = body.copy()
            case frames.Failed():
                self.failed[header.id] = header.kind
            case frames.Made():
                assert header.started <= header.denoised <= header.decoded
                self.made.add(header.id)


@pytest.mark.parametrize("seed", range(24))
def test_whatever_memory_is_refused_jobs_end_and_what_is_made_is_right(seed: int) -> None:
    random = Random(seed)
    jobs = [a_job(random, number, names=tuple(MODELS)) for number in range(random.randint(4, 12))]
    refused, said = random.choice(REFUSALS), Said()
    card = Scarce(seed, random.choice(CARDS), refused / 5)
    loop = DeviceLoop(
        MODELS,
        {ROWWISE: Refusing(card, seed, refused)},
        max_rows=random.randint(1, 4),
        budgets=dict.fromkeys(Memory, random.choice(BUDGETS)),
        emit=said.emit,
        clock=lambda: card.clock,
    )

    withdrawn = drive(loop, jobs, said, random)

    assert set(said.failed.values()) <= {"fault"}
    assert said.made | said.failed.keys() | withdrawn == {run.job.id for run, _ in jobs}
    expected = on_the_processor([(run, source) for run, source in jobs if run.job.id in said.made])
    assert all((said.pictures[place] == picture).all() for place, picture in expected.items())
    loop._batches.close_idle(keep=None)
    loop._networks.free_idle()
    assert loop._networks.taken == 0
    assert not card._memory._living
    assert not card._events


def drive(loop: DeviceLoop, jobs: list[Any], said: Said, random: Random) -> set[str]:
    """Returns: jobs that were withdrawn before they ended."""
    waiting, begun, withdrawn = list(jobs), list[str](), set[str]()
    for _ in range(MOST_STEPS):
        if not waiting and not loop.busy:
            return withdrawn
        if waiting and (not loop.busy or random.random() < 0.4):
            run, source = waiting.pop()
            begun.append(run.job.id)
            loop.take(run, source)
        going = [job for job in begun if job not in said.made | said.failed.keys() | withdrawn]
        if going and random.random() < WITHDRAWN:
            loop.withdraw(going[0])
            withdrawn.add(going[0])
        loop.step()
    raise AssertionError(f"jobs are unfinished after {MOST_STEPS} steps")


def on_the_processor(jobs: list[Any]) -> dict[tuple[str, int], NDArray[np.uint8]]:
    said = Said()
    backend = rowwise_backend(CpuDevice())
    loop = DeviceLoop(MODELS, {ROWWISE: backend}, max_rows=4, budgets=dict.fromkeys(Memory, 2**40), emit=said.emit)
    for run, source in jobs:
        loop.take(run, source)
    while loop.busy:
        loop.step()
    return said.pictures
