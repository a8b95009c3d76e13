"""A trace on a rig: through the worker's loop as it is, and one job at a time.

The stages of a job are those of the worker: the grid is asked for it, its prompts are encoded, it steps, its images are
decoded, copied to the host, encoded and uploaded, and the result is handed in and acknowledged. What happens on the
card is what the worker's own `DeviceLoop` asks of a `SimulatedDevice`; the stages around it are lanes on the same
clock. Both ways have all stages, at the same costs; with `NO_HOST` only those on the card take time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trt_engines.costs.hardware import Hardware
from trt_perf.simulation.agenda import Agenda, Due, Lanes
from trt_perf.simulation.costs import CardCosts
from trt_perf.simulation.host import Host
from trt_perf.simulation.loop import SimulatedLoop
from trt_perf.simulation.trace import Job
from trt_worker import frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run of a trace gives."""

    seconds: float  # from the first arrival to the last acknowledgement
    waits: tuple[float, ...]  # seconds from a job's arrival to its acknowledgement, in order of the trace


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedOutcome(Outcome):
    """What a run through the worker's loop gives beside that."""

    mean_rows: float  # images of a step


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """What a job takes that has the card to itself."""

    seconds: float  # from being given to the device to its last pixel on the host
    busy: float  # of them, those in which the card computed, each times the share of it that did


class CardAlone:
    """What each job takes alone: the worker's loop is given one at a time. Args: costs: of that card."""

    def __init__(self, hardware: Hardware, costs: CardCosts) -> None:
        self._loop = SimulatedLoop(hardware, costs, _ignore)
        self._known: dict[Job, Alone] = {}  # by all that time depends on

    def of(self, job: Job) -> Alone:
        """Runs it, unless one like it was run before."""
        like = replace(job, id="", arrived=0.0)
        if like not in self._known:
            self._known[like] = self._run(replace(job, id=str(len(self._known))))
        return self._known[like]

    def _run(self, job: Job) -> Alone:
        began, busy = self._loop.now, self._loop.card_busy_seconds
        self._loop.take(job, received=began)
        while self._loop.busy:
            self._loop.step()
        return Alone(seconds=self._loop.now - began, busy=self._loop.card_busy_seconds - busy)


def one_at_a_time(jobs: Sequence[Job], alone: CardAlone, host: Host) -> Outcome:
    """Every job alone, in order of arrival, one stage after the other; the next is asked for when it is acknowledged.

    Engines are the same and resident. The images of a job share its steps, as far as the worker lets them, and are
    encoded side by side.
    """
    now, waits = 0.0, []
    for job in jobs:
        now = max(now, job.arrived) + alone.of(job).seconds + host.seconds_alone(job)
        waits.append(now - job.arrived)
    return Outcome(seconds=now - jobs[0].arrived, waits=tuple(waits))


class Rig:
    """The worker around its loop, so that jobs overlap.

    Images of a job are encoded when all are on the host, uploaded when all are encoded, and acknowledged when all are
    uploaded, as the worker does it. Uploads take the line in turn.

    Args:
        costs: of that card.
        held: jobs between being asked for and acknowledged, which bounds every queue; the rest wait at the grid.
    """

    def __init__(self, hardware: Hardware, costs: CardCosts, host: Host, *, held: int) -> None:
        self._loop = SimulatedLoop(hardware, costs, self._told)
        self._host = host
        self._agenda = Agenda()
        self._grid, self._encode, self._uplink = (Lanes(self._agenda, count) for count in (held, host.threads, 1))
        self._places = held
        self._outside: deque[Job] = deque()  # that the grid has and we have no place for
        self._jobs: dict[str, Job] = {}
        self._acknowledged: dict[str, float] = {}
        self._totals = frames.Totals(calls=0, rows=0, engine_seconds=0.0, loop_seconds=0.0, megapixel_steps=0.0)

    def run(self, jobs: Sequence[Job]) -> SharedOutcome:
        """Play a trace to its end.

        Args: jobs: in order of arrival, of distinct names.
        Raises: RuntimeError: a job failed, or would be late, so that the worker would not finish it.
        """
        began, before = self._loop.now, self._totals
        for job in jobs:
            self._agenda.at(began + job.arrived, self._offered(job))
        while len(self._acknowledged) < len(jobs):
            self._agenda.handle(self._loop.now)
            if self._loop.busy:
                self._loop.step()
            else:
                self._loop.sleep_until(self._agenda.next)
        return SharedOutcome(
            seconds=max(self._acknowledged.values()) - began - jobs[0].arrived,
            waits=tuple(self._acknowledged[job.id] - began - job.arrived for job in jobs),
            mean_rows=(self._totals.rows - before.rows) / (self._totals.calls - before.calls),
        )

    def _told(self, header: frames.FromDevice, body: NDArray[np.uint8] | None) -> None:
        if isinstance(header, frames.Totals):
            self._totals = header
        if isinstance(header, frames.Made):
            self._made(self._jobs[header.id])

    def _offered(self, job: Job) -> Due:
        def offered(now: float) -> None:
            self._outside.append(job)
            self._ask(now)

        return offered

    def _ask(self, now: float) -> None:
        """Ask the grid for a job, if it has one and there is a place."""
        if self._outside and self._places:
            self._places -= 1
            job = self._outside.popleft()
            self._jobs[job.id] = job
            self._grid.take(now, self._host.exchange_seconds, lambda given: self._loop.take(job, received=given))

    def _made(self, job: Job) -> None:
        def acknowledged(now: float) -> None:
            self._acknowledged[job.id] = now
            self._places += 1
            self._ask(now)

        def uploaded(now: float) -> None:
            self._grid.take(now, self._host.exchange_seconds, acknowledged)

        def encoded(now: float) -> None:
            self._of_all_images(job, self._uplink, now, self._host.upload_seconds(job), uploaded)

        self._of_all_images(job, self._encode, self._loop.now, self._host.encoding_seconds(job), encoded)

    def _of_all_images(self, job: Job, lanes: Lanes, now: float, seconds: float, then: Due) -> None:
        """The same for all images of a job, and what follows from the end of the last."""
        left = job.images

        def one_ended(now: float) -> None:
            nonlocal left
            left -= 1
            if not left:
                then(now)

        for _ in range(job.images):
            lanes.take(now, seconds, one_ended)


def _ignore(header: frames.FromDevice, body: NDArray[np.uint8] | None) -> None:
    """Nobody listens."""
