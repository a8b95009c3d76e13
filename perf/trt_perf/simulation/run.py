"""A trace on a rig: as the worker schedules it, and one job at a time.

The stages of a job are those of the worker: the grid is asked for it, its prompts are encoded, it steps, its images are
decoded, copied to the host, encoded and uploaded, and the result is handed in and acknowledged. Both ways have all of
them, at the same costs; with `NO_HOST` only those on the card take time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trt_perf.simulation.card import Activity, Card, Costs
from trt_perf.simulation.host import Host
from trt_perf.simulation.trace import Job
from trt_worker.batch.admission import BatchKey
from trt_worker.batch.scheduler import Scheduler

MAX_ROWS = 8
"""Images of one batch."""

DUE_SECONDS = 300.0
"""What the grid's clients wait, from when a job is taken off the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run of a trace gives."""

    seconds: float  # from the first arrival to the last acknowledgement
    waits: tuple[float, ...]  # seconds from a job's arrival to its acknowledgement, in order of the trace
    mean_rows: float  # images of a step


def one_at_a_time(jobs: Sequence[Job], costs: Costs, host: Host) -> Outcome:
    """Every job alone, in order of arrival, one stage after the other; the next is asked for when it is acknowledged.

    Engines are the same and resident. The images of a job share its steps and are encoded side by side.
    """
    now, waits, steps, rows = 0.0, [], 0, 0
    for job in jobs:
        now = max(now, job.arrived) + seconds_alone(job, costs) + host.seconds_alone(job)
        waits.append(now - job.arrived)
        steps += job.steps
        rows += job.steps * job.images
    return Outcome(seconds=now - jobs[0].arrived, waits=tuple(waits), mean_rows=rows / steps)


def seconds_alone(job: Job, costs: Costs) -> float:
    """Device seconds of a job that has the card to itself."""
    step = costs.step(job.family, job.width, job.height, job.images, job.tokens)
    image = costs.decode(job.family, job.width, job.height).seconds + costs.copy(job.width, job.height).seconds
    return costs.text(job.family, 2).seconds + job.steps * step.seconds + job.images * image


def busy_seconds(job: Job, costs: Costs) -> float:
    """Seconds alone on the card, less those in which it is partly idle."""
    step = costs.step(job.family, job.width, job.height, job.images, job.tokens)
    decode = costs.decode(job.family, job.width, job.height)
    text = costs.text(job.family, 2)
    return (
        text.seconds * text.share + job.steps * step.seconds * step.share + job.images * decode.seconds * decode.share
    )


@dataclass(slots=True)
class _Stage:
    """Activities that start in turn, each on a free lane, and with what follows from its end."""

    lanes: list[str]  # that are free: streams of the clock
    waiting: deque[tuple[Activity, Callable[[], None]]] = field(default_factory=deque)


class Rig:
    """The worker's scheduler on a card, with every other stage on lanes of its own, so that jobs overlap.

    Images of a job are encoded when all are on the host, uploaded when all are encoded, and acknowledged when all are
    uploaded, as the worker does it. Uploads take the line in turn.

    Args:
        held: jobs between being asked for and acknowledged, which bounds every queue; the rest wait at the grid.
        denoise_streams: batches that step at the same time.
    """

    def __init__(
        self, costs: Costs, host: Host, *, held: int, denoise_streams: int = 1, max_rows: int = MAX_ROWS
    ) -> None:
        self._costs = costs
        self._host = host
        self._held = held
        self._card = Card()
        self._scheduler = Scheduler(max_rows)
        lanes = {"grid": held, "text": 1, "decode": 1, "copy": 1, "encode": host.threads, "uplink": 1}
        self._stages = {name: _Stage([f"{name} {lane}" for lane in range(count)]) for name, count in lanes.items()}
        self._running: dict[str, tuple[_Stage, Callable[[], None]]] = {}  # by lane, with what follows
        self._free = [f"denoise {number}" for number in range(denoise_streams)]
        self._stepping: dict[str, tuple[BatchKey, float]] = {}
        self._jobs: dict[str, Job] = {}
        self._images_left: dict[str, int] = {}  # that are not on the host, of jobs that are not acknowledged
        self._done: dict[str, float] = {}
        self._steps = self._rows = 0

    def run(self, jobs: Sequence[Job]) -> Outcome:
        """Play a trace to its end.

        Args: jobs: in order of arrival, of distinct names.
        Raises: RuntimeError: a job would be late, so that the worker would not finish it.
        """
        outside = deque(jobs)
        while len(self._done) < len(jobs):
            while outside and outside[0].arrived <= self._card.now and len(self._images_left) < self._held:
                self._take(outside.popleft())
            self._start_steps()
            arrival = outside[0].arrived if outside and len(self._images_left) < self._held else math.inf
            ended = self._card.advance(max(arrival, self._card.now))
            if ended is not None:
                self._ended(ended)
        return Outcome(
            seconds=self._card.now - jobs[0].arrived,
            waits=tuple(self._done[job.id] - job.arrived for job in jobs),
            mean_rows=self._rows / self._steps,
        )

    def _take(self, job: Job) -> None:
        self._jobs[job.id], self._images_left[job.id] = job, job.images
        taken = self._card.now
        text = self._costs.text(job.family, 2)
        self._queue(
            "grid", self._host.exchange(), lambda: self._queue("text", text, lambda: self._conditioned(job, taken))
        )

    def _conditioned(self, job: Job, taken: float) -> None:
        key = BatchKey(model=job.family.name, backend="simulated", width=job.width, height=job.height)
        for index in range(job.images):
            self._scheduler.enter(job.id, index, key, arrived=job.arrived, due=taken + DUE_SECONDS, stages=job.steps)

    def _start_steps(self) -> None:
        while self._free:
            stepping = {key for key, _ in self._stepping.values()}
            decision = self._scheduler.decide(self._card.now, stepping=stepping)
            if decision.late:
                raise RuntimeError(f"job {decision.late[0].job} would be late: hold fewer jobs at a time")
            if (key := decision.step) is None:
                return
            members = self._scheduler.places(key)
            tokens = max(self._jobs[job].tokens for job, _ in members)
            family = self._jobs[members[0][0]].family
            self._steps += 1
            self._rows += len(members)
            stream = self._free.pop()
            self._stepping[stream] = key, self._card.now
            self._card.start(stream, self._costs.step(family, key.width, key.height, len(members), tokens))

    def _ended(self, name: str) -> None:
        if (stepped := self._stepping.pop(name, None)) is not None:
            key, began = stepped
            self._free.append(name)
            self._scheduler.measured(key, self._scheduler.rows(key), self._card.now - began)
            for job_id, _ in self._scheduler.stepped(key):
                self._decode(self._jobs[job_id])
            return
        stage, after = self._running.pop(name)
        stage.lanes.append(name)
        after()
        self._next(stage)

    def _decode(self, job: Job) -> None:
        decode, copy = (
            self._costs.decode(job.family, job.width, job.height),
            self._costs.copy(job.width, job.height),
        )
        self._queue("decode", decode, lambda: self._queue("copy", copy, lambda: self._copied(job)))

    def _copied(self, job: Job) -> None:
        self._images_left[job.id] -= 1
        if not self._images_left[job.id]:
            self._queue_images(job, "encode", self._host.encode(job), lambda: self._encoded(job))

    def _encoded(self, job: Job) -> None:
        self._queue_images(job, "uplink", self._host.upload(job), lambda: self._uploaded(job))

    def _uploaded(self, job: Job) -> None:
        self._queue("grid", self._host.exchange(), lambda: self._acknowledged(job))

    def _acknowledged(self, job: Job) -> None:
        del self._images_left[job.id]
        self._done[job.id] = self._card.now

    def _queue_images(self, job: Job, name: str, activity: Activity, after: Callable[[], None]) -> None:
        """The same for all images of a job, and what follows from the end of the last."""
        left = job.images

        def one_ended() -> None:
            nonlocal left
            left -= 1
            if not left:
                after()

        for _ in range(job.images):
            self._queue(name, activity, one_ended)

    def _queue(self, name: str, activity: Activity, after: Callable[[], None]) -> None:
        stage = self._stages[name]
        stage.waiting.append((activity, after))
        self._next(stage)

    def _next(self, stage: _Stage) -> None:
        while stage.waiting and stage.lanes:
            activity, after = stage.waiting.popleft()
            lane = stage.lanes.pop()
            self._running[lane] = stage, after
            self._card.start(lane, activity)
