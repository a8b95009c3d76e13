"""Many jobs through real device processes that fail in every way a card can, each picture held to an undisturbed one.

The ladder is the scripted `faulty` backend with a clean one behind it. Restarts, replays and failover are the worker's.
No engine is put into quarantine, since no rig fails every few seconds: most of the run would be spent there.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from tempfile import TemporaryDirectory
from time import monotonic

import anyio
import numpy as np
from numpy.typing import NDArray

from trt_engines.backends.faults import Fault, FaultScript
from trt_engines.backends.faulty import FaultyBackend
from trt_engines.backends.rowwise import ROWWISE, rowwise_backend
from trt_engines.errors import EngineError
from trt_engines.model import Model, find_models
from trt_engines.residency import Memory
from trt_perf.quiet import quiet
from trt_worker import frames
from trt_worker.device.loop import DeviceLoop
from trt_worker.errors import WorkerError
from trt_worker.job import ImageSeed, JobSpec
from trt_worker.plan.route import route
from trt_worker.supervisor.device_link import DeviceLink, run_frame
from trt_worker.supervisor.maker import JobMaker

JOBS = 1000
SEED = 1
RATES: Mapping[Fault, float] = {
    Fault.FULL_AT_LOAD: 0.1,
    Fault.STALE: 0.1,
    Fault.FULL: 0.01,
    Fault.NOT_FINITE: 0.01,
    Fault.STICKY: 0.003,
    Fault.HANG: 0.0015,
}
JOBS_PER_KILL = 100

DEVICES = 2
AT_ONCE = 8
MAX_ROWS = 4
MEMORY = 2**31
SILENT_SECONDS = 2.0
RUN_SECONDS = 1800.0
MOST_DIFFERENCE = 2
"""Of 255: rows that share a step are summed in another order than one alone."""

SAMPLERS = ("euler", "euler_ancestral", "dpmpp_2m", "heun", "dpmpp_sde", "lcm")
COLOURS, SHAPES = ("red", "green", "blue", "yellow"), ("circle", "square", "star", "triangle")

Picture = NDArray[np.uint8]
Progress = Callable[[float], None]


@dataclass(slots=True, kw_only=True)
class FaultReport:
    """What became of the jobs."""

    jobs: int
    answers: Counter[str] = field(default_factory=Counter)  # by job
    wrong: int = 0  # images that nobody asked for
    refused: list[str] = field(default_factory=list)  # the reasons
    strikes: Counter[Fault] = field(default_factory=Counter)
    kills: int = 0  # processes killed from outside while they held jobs
    restarts: int = 0

    @property
    def answered_once(self) -> int:
        """Jobs that were answered with their images, once."""
        return sum(times == 1 for times in self.answers.values())

    @property
    def never_struck(self) -> tuple[str, ...]:
        """Faults that the run did not have."""
        return (*(fault for fault in Fault if not self.strikes[fault]), *(() if self.kills else ("killed process",)))


def fault_figures() -> dict[str, float]:
    """The figures of a full run. Raises: RuntimeError: a kind of fault never happened, so that they prove nothing."""
    report = anyio.run(lambda: run_with_faults(JOBS, SEED), backend_options={"use_uvloop": True})
    if report.never_struck:
        raise RuntimeError(f"{report.jobs} jobs met no {', no '.join(report.never_struck)}: raise the rates")
    return {
        "faults_jobs": report.jobs,
        "faults_answered_once": report.answered_once,
        "faults_wrong_images": report.wrong,
        "faults_struck": sum(report.strikes.values()) + report.kills,
        "faults_restarts": report.restarts,
    }


async def run_with_faults(
    jobs: int, seed: int, rates: Mapping[Fault, float] = RATES, jobs_per_kill: int = JOBS_PER_KILL
) -> FaultReport:
    """Make jobs on devices that fail by script, several at a time.

    Args:
        jobs_per_kill: every so many jobs a process is killed from outside, when one of them shows progress.
    Raises: TimeoutError: a job was never answered. DeviceUnusable: a device could not be started any more.
    """
    model = find_models()["shapes-tiny"]
    report = FaultReport(jobs=jobs)
    with TemporaryDirectory() as folder, quiet(), anyio.fail_after(RUN_SECONDS):
        script = FaultScript(seed=seed, rates=dict(rates), folder=folder)
        links = [_link(index, script) for index in range(1, DEVICES + 1)]
        maker = JobMaker(
            links,
            max_rows=MAX_ROWS,
            fell_back=lambda _: None,
            faults_until_quarantine=jobs,
        )
        clean = Undisturbed(model)
        waiting = iter([a_job(number, seed) for number in range(jobs)])

        async def work() -> None:
            for job in waiting:
                try:
                    making = await maker.make(job, model, _killing(job, links, jobs_per_kill, report))
                except (EngineError, WorkerError) as error:
                    report.refused.append(f"job {job.id}: {error}")
                    continue
                report.answers[job.id] += 1
                report.wrong += wrong_images(making.images, clean.make(job))

        async with anyio.create_task_group() as devices:
            for link in links:
                await devices.start(link.run)
            async with anyio.create_task_group() as group:
                for _ in range(AT_ONCE):
                    group.start_soon(work)
            devices.cancel_scope.cancel()
        report.strikes = script.strikes()
        report.restarts = sum(link.restarts for link in links)
    return report


def a_job(number: int, seed: int) -> JobSpec:
    """One of many jobs, no two of which have a picture in common."""
    random = Random(f"{seed} {number}")
    return JobSpec(
        id=str(number),
        model="shapes-tiny",
        prompt=f"a {random.choice(COLOURS)} {random.choice(SHAPES)}",
        width=64,
        height=64,
        steps=random.choice((2, 3)),
        guidance=random.choice((1.0, 4.0)),
        sampler=random.choice(SAMPLERS),
        scheduler="karras",
        seeds=tuple(ImageSeed(value=10 * number + image) for image in range(random.choice((1, 2)))),
        received=monotonic(),
        due=monotonic() + 2 * RUN_SECONDS,
    )


class Undisturbed:
    """The clean backend in this process, which makes one image at a time."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._backend = rowwise_backend()
        self._loop = DeviceLoop(
            {model.name: model},
            {self._backend.name: self._backend},
            max_rows=1,
            budgets=dict.fromkeys(Memory, MEMORY),
            emit=self._emit,
        )
        self._pictures: dict[int, Picture] = {}

    def make(self, job: JobSpec) -> list[Picture]:
        """The images of a job as they should be."""
        self._pictures.clear()
        self._loop.take(run_frame(job.id, job, route(job, self._model, [self._backend], max_rows=1)), b"")
        while self._loop.busy:
            self._loop.step()
        return [self._pictures[index] for index in sorted(self._pictures)]

    def _emit(self, header: frames.FromDevice, body: Picture | None) -> None:
        if isinstance(header, frames.Failed):
            raise RuntimeError(f"job {header.id} fails undisturbed: {header.message}")
        if isinstance(header, frames.Pixels) and body is not None:
            self._pictures[header.index] = body.copy()


def wrong_images(found: Sequence[Picture], expected: Sequence[Picture]) -> int:
    """Images that are missing, too many, or not the same picture as the expected one in their place."""
    return abs(len(found) - len(expected)) + sum(map(_differ, found, expected))


def _differ(one: Picture, other: Picture) -> bool:
    return one.shape != other.shape or int(np.abs(one.astype(int) - other).max()) > MOST_DIFFERENCE


def _killing(job: JobSpec, links: Sequence[DeviceLink], jobs_per_kill: int, report: FaultReport) -> Progress:
    """What hears of a job's progress; of some jobs it kills a process that is at work, once."""
    left = 1 if int(job.id) % jobs_per_kill == jobs_per_kill // 2 else 0

    def progress(_: float) -> None:
        nonlocal left
        busy = [link.pid for link in links if link.jobs and link.pid]
        if left and busy:
            with suppress(ProcessLookupError):  # it has just ended by itself: the next sign of progress will do
                os.kill(Random(job.id).choice(busy), signal.SIGKILL)
                left -= 1
                report.kills += 1

    return progress


def _link(index: int, script: FaultScript) -> DeviceLink:
    configure = frames.Configure(
        index=index,
        backends=(FaultyBackend.name, ROWWISE),
        threads=1,
        max_rows=MAX_ROWS,
        memory=MEMORY,
        machine_memory=MEMORY,
        models=tuple(find_models().values()),
        log_directory=None,
        verbosity=0,
        environment=script.environment,
    )
    return DeviceLink(configure, silent_seconds=SILENT_SECONDS, start_seconds=60.0, restart_waits=(0.0,))
