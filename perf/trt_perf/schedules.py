"""Random schedules of mixed jobs on the simulated card: each picture must be the processor's, and no hazard be met.

A schedule is drawn once and played through the worker's own loop on both devices: jobs of two models, several sizes,
all samplers, lengths of prompt, guidance and source images come and are withdrawn while others step, on a card whose
operations take as long as the seed says and whose memory now and then holds one model only.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random

import numpy as np
from loguru import logger
from numpy.typing import NDArray
from PIL import Image as PillowImage

from trt_engines.backend import EngineSpec
from trt_engines.backends.host_source import NetworkSource
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.backends.rowwise import ROWWISE, rowwise_network
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import DeviceProperties, HostComputingDevice
from trt_engines.devices.operations import Operation
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.devices.simulated.hazards import Hazard
from trt_engines.model import Model, find_models
from trt_engines.residency import Footprint, Memory
from trt_worker import frames
from trt_worker.denoise.samplers import SAMPLERS
from trt_worker.device.loop import DeviceLoop
from trt_worker.job import ImageSeed, JobSpec

SCHEDULES = 1000
MODEL = "shapes-tiny"
NAMES = ("one", "other")
SIZES = ((64, 64), (128, 64), (64, 128))
CAPACITY = 3
MOST_JOBS = 9
WITHDRAWN = 0.1
"""Share of the turns in which a job that was begun is given up."""

WEIGHTS = 100 * 2**20
ROOM = (WEIGHTS + WEIGHTS // 2, 10 * WEIGHTS)
"""Bytes for engines: of one denoiser at a time, or of all."""

MOST_STEPS = 10_000
"""Of a schedule; one that takes more does not end."""

CARD = DeviceProperties(name="a simulated card", sm=89, memory_bytes=1 << 26, multiprocessors=128)

Picture = NDArray[np.uint8]
Place = tuple[str, int]
"""A job, and one image of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What happens before some steps."""

    take: tuple[tuple[frames.Run, bytes], ...]  # jobs with their source images
    withdraw: tuple[str, ...]
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What one loop is to do; when all turns are over it steps to its end."""

    turns: tuple[Turn, ...]
    memory: int

    @property
    def withdrawn(self) -> frozenset[str]:
        return frozenset(job for turn in self.turns for job in turn.withdraw)


def schedule(seed: int) -> Schedule:
    """The schedule of a seed."""
    random = Random(seed)
    waiting = [a_job(random, number) for number in range(random.randint(3, MOST_JOBS))]
    begun: list[str] = []
    turns = []
    while waiting:
        take = tuple(waiting.pop() for _ in range(random.randint(0, min(3, len(waiting)))))
        begun.extend(run.job.id for run, _ in take)
        withdraw = (random.choice(begun),) if begun and random.random() < WITHDRAWN else ()
        turns.append(Turn(take=take, withdraw=withdraw, steps=random.randint(0, 3)))
    return Schedule(turns=tuple(turns), memory=random.choice(ROOM))


def play(plan: Schedule, models: Mapping[str, Model], device: HostComputingDevice) -> dict[Place, Picture]:
    """The pictures that a device makes of a schedule.

    Raises: Hazard: a strict device met one. RuntimeError: a job failed, or the schedule does not end.
    """
    pictures: dict[Place, Picture] = {}

    def emit(header: frames.FromDevice, body: Picture | None) -> None:
        if isinstance(header, frames.Failed):
            raise RuntimeError(f"job {header.id} failed: {header.message}")
        if isinstance(header, frames.Pixels) and body is not None:
            pictures[header.id, header.index] = body.copy()

    ticks = count()
    backend = OnDeviceBackend(ROWWISE, _Heavy(rowwise_network, device))
    loop = DeviceLoop(
        models,
        {ROWWISE: backend},
        max_rows=CAPACITY,
        budgets=dict.fromkeys(Memory, plan.memory),
        emit=emit,
        clock=lambda: next(ticks) * 1e-3,
    )
    for turn in plan.turns:
        for run, source in turn.take:
            loop.take(run, source)
        for job in turn.withdraw:
            loop.withdraw(job)
        for _ in range(turn.steps):
            loop.step()
    for _ in range(MOST_STEPS):
        if not loop.busy:
            break
        loop.step()
    else:
        raise RuntimeError(f"jobs are unfinished after {MOST_STEPS} steps")
    device.close()
    return pictures


def a_card(seed: int) -> HostComputingDevice:
    """A strict card whose order and operations' seconds are a seed's."""
    random = Random(seed)

    def seconds(operation: Operation) -> float:
        return random.choice((0.0, 1e-4, 1e-3, 5e-3))

    return SimulatedDevice(CARD, seed=seed, seconds=seconds)


def schedule_figures(
    schedules: int = SCHEDULES, card: Callable[[int], HostComputingDevice] = a_card
) -> dict[str, float]:
    """The figures of some schedules, each played on the processor and on a card of its own.

    Raises: RuntimeError: a picture is not the processor's; the message names the schedule and the job.
    """
    shipped = find_models()[MODEL]
    models = {name: replace(shipped, name=name) for name in NAMES}
    hazards = pictures = 0
    logger.disable("trt_worker.device.engine_cache")  # thousands of lines on engines that make room
    try:
        for seed in range(schedules):
            plan = schedule(seed)
            expected = play(plan, models, CpuDevice())
            try:
                found = play(plan, models, card(seed))
            except Hazard:
                hazards += 1
                continue
            if wrong := _wrong(found, expected, plan.withdrawn):
                raise RuntimeError(f"schedule {seed}: {', '.join(wrong)} came out differently on the simulated card")
            pictures += len(found)
    finally:
        logger.enable("trt_worker.device.engine_cache")
    return {"schedules_run": schedules, "schedules_hazards": hazards, "schedules_pictures": pictures}


def _wrong(found: Mapping[Place, Picture], expected: Mapping[Place, Picture], withdrawn: frozenset[str]) -> list[str]:
    """Jobs whose pictures differ. One that was withdrawn may have been made before, on either device."""
    wrong = set()
    for place in found.keys() | expected.keys():
        one, other, (job, _) = found.get(place), expected.get(place), place
        if one is None or other is None:
            if job not in withdrawn:
                wrong.add(job)
        elif not np.array_equal(one, other):
            wrong.add(job)
    return sorted(wrong)


class _Heavy(NetworkSource):
    """Networks that say that they need memory."""

    def footprint(self, spec: EngineSpec) -> Footprint:
        return Footprint(weights=WEIGHTS if spec.network == spec.model.facts.passes[0].denoiser else 1)


def a_job(random: Random, number: int, names: Sequence[str] = NAMES) -> tuple[frames.Run, bytes]:
    """A job of one of some models, and its source image. Args: number: its name."""
    width, height = random.choice(SIZES)
    words = " ".join(
        random.choice(("red", "blue", "star", "(ring:1.3)", "square")) for _ in range(random.choice((3, 90, 300)))
    )
    source = _a_source(random) if random.random() < 0.2 else b""
    spec = JobSpec(
        id=str(number),
        model=random.choice(names),
        prompt=words,
        negative_prompt=random.choice(("", "ugly", "(blurry) " * 40)),
        width=width,
        height=height,
        steps=random.randint(1, 4),
        guidance=random.choice((1.0, 3.0, 7.5)),
        sampler=random.choice(tuple(SAMPLERS)),
        scheduler="karras",
        strength=0.7 if source else 1.0,
        seeds=tuple(ImageSeed(value=random.getrandbits(64), draw=draw) for draw in range(random.choice((1, 1, 2)))),
        received=0.0,
        due=1e9,
    )
    return frames.Run(backend=ROWWISE, job=spec), source


def _a_source(random: Random) -> bytes:
    written = io.BytesIO()
    PillowImage.frombytes("RGB", (16, 16), random.randbytes(16 * 16 * 3)).save(written, "PNG")
    return written.getvalue()
