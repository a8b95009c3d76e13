"""Whose doing it is that a device process is lost: a job's, an engine's or the device's, told from who was aboard.

Nobody sees what killed a process. But whatever did was there every time, so losses are compared: what was aboard all of
them is suspected, and what a device lost its process without is not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

RECENT_SECONDS = 600.0
"""Losses longer ago say nothing any more: an engine under suspicion is tried again, a job's next crash is its first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passenger:
    """A job that a process held when it was lost, and what ran it."""

    job: str
    backend: str
    engine: str  # label of its denoiser engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A device process that died or was killed because it hung."""

    device: int
    at: float  # time.monotonic() seconds
    aboard: frozenset[Passenger]

    @property
    def jobs(self) -> frozenset[str]:
        """Jobs that were aboard."""
        return frozenset(passenger.job for passenger in self.aboard)


class Culprit(Enum):
    """What speaks for being the cause."""

    UNKNOWN = "unknown"  # too few losses to tell: the job is replayed
    DEVICE = "device"  # it lost processes without the job too: the job is replayed
    ONE_OF_SEVERAL = "one of several"  # others were aboard every time as well: replayed with none of them beside it
    JOB = "job"  # what it was aboard was lost, and nothing else was


def recent(losses: Collection[Loss], now: float) -> tuple[Loss, ...]:
    """Those that still count."""
    return tuple(loss for loss in losses if now - loss.at < RECENT_SECONDS)


def losses_of(job: str, backend: str, losses: Collection[Loss]) -> list[Loss]:
    """Those that a job was aboard of, on a backend."""
    return [loss for loss in losses if any((one.job, one.backend) == (job, backend) for one in loss.aboard)]


def accuse(job: str, backend: str, losses: Collection[Loss], *, limit: int) -> Culprit:
    """Who is to blame for the processes that a job has lost on a backend.

    Args:
        losses: of all devices; those that count.
        limit: losses on one backend that speak against a job; twice as many do whatever else was lost, so that no job
            is replayed for ever.
    """
    own = losses_of(job, backend, losses)
    if len(own) < limit:
        return Culprit.UNKNOWN
    if len(own) >= 2 * limit:
        return Culprit.JOB
    unreliable = {loss.device for loss in losses if job not in loss.jobs}
    telling = [loss for loss in own if loss.device not in unreliable]
    if len(telling) < limit:
        return Culprit.DEVICE
    return Culprit.ONE_OF_SEVERAL if frozenset.intersection(*(loss.jobs for loss in telling)) > {job} else Culprit.JOB


def suspected_engines(losses: Collection[Loss], *, limit: int) -> Mapping[tuple[int, str, str], int]:
    """Engines, as (device, backend, engine), that lost processes which no single job explains, and how many.

    Only losses count in which no other engine was aboard.

    Args:
        limit: losses that make an engine suspect, >= 1.
    """
    of_engine: dict[tuple[int, str, str], list[frozenset[str]]] = {}
    for loss in losses:
        engines = {(loss.device, one.backend, one.engine) for one in loss.aboard}
        if len(engines) == 1:
            of_engine.setdefault(engines.pop(), []).append(loss.jobs)
    return {engine: len(jobs) for engine, jobs in of_engine.items() if len(jobs) >= limit and not _common(jobs)}


def _common(jobs: Sequence[frozenset[str]]) -> frozenset[str]:
    return frozenset.intersection(*jobs)
