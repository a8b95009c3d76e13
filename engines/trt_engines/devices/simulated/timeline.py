"""When each operation of the simulated card begins and ends.

A discrete-event simulation. An operation begins when it was asked for, its stream has come to it and what it waits for
has ended. Operations of different streams run at full speed while the shares of a unit that they keep busy add up to
no more than the unit; beyond that all are slowed alike. So running side by side fills what one alone leaves idle, and
gains nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import inf

from trt_engines.devices.device import Stream
from trt_engines.devices.operations import CopyOperation, Direction, Work
from trt_engines.devices.simulated.queue import Task


class Unit(Enum):
    """Parts of a card that work side by side."""

    COMPUTE = "compute"
    UPLOAD = "upload"
    DOWNLOAD = "download"


@dataclass(slots=True)
class _Running:
    task: Task
    unit: Unit
    left: float  # seconds, had it the unit to itself


class Timeline:
    """The card's clock, which follows the host's: work that is asked for later must not be asked for before `now`."""

    def __init__(self) -> None:
        self.now = 0.0  # seconds: everything before is settled
        self._busy = dict.fromkeys(Unit, 0.0)
        self._waiting: dict[Stream, deque[Task]] = {}
        self._running: dict[Stream, _Running] = {}

    @property
    def busy(self) -> Mapping[Unit, float]:
        """Seconds in which each unit was busy until `now`: those of its operations, times the shares they kept busy."""
        return self._busy

    def push(self, task: Task) -> None:
        """Put a task behind the others of its stream. Raises: ValueError: it was asked for in the past."""
        if task.submitted < self.now:
            raise ValueError(f"a task was asked for at {task.submitted} s, and the card's clock is at {self.now} s")
        self._waiting.setdefault(task.stream, deque()).append(task)

    def settle(self, target: Task) -> float:
        """Settle everything until the target ends. Returns: when it does, seconds on the clock."""
        while target.end is None:
            self._advance(inf)
        return target.end

    def settle_until(self, now: float) -> None:
        """Settle everything that happens by `now`."""
        while self._advance(now):
            pass

    def _advance(self, limit: float) -> bool:
        """Let time pass to the next beginning or end; False: neither comes by the limit, and the clock is there."""
        if self._begin():
            return True
        speeds = self._speeds()
        ends = {stream: self.now + one.left / speeds[one.unit] for stream, one in self._running.items()}
        next_end = min(ends.values(), default=inf)
        until = min(next_end, self._next_request())
        if until > limit:
            self._pass(max(limit, self.now), speeds)
            return False
        self._pass(until, speeds)
        for stream in [stream for stream, end in ends.items() if end == next_end == until]:
            self._running.pop(stream).task.end = self.now
        return True

    def _begin(self) -> bool:
        """Begin what can begin now. Returns: whether something without a duration has ended: others may begin now."""
        ended = False
        for stream, waiting in self._waiting.items():
            while waiting and stream not in self._running and _may_begin(waiting[0], self.now):
                task = waiting.popleft()
                if task.work is not None and task.seconds > 0.0:
                    self._running[stream] = _Running(task, _unit(task.work), task.seconds)
                else:
                    task.end = self.now
                    ended = True
        return ended

    def _next_request(self) -> float:
        """When the next task begins that has not been asked for yet: nothing else is missing."""
        heads = [waiting[0] for stream, waiting in self._waiting.items() if waiting and stream not in self._running]
        awaited = [task.submitted for task in heads if task.after is None or task.after.end is not None]
        return min(awaited, default=inf)

    def _speeds(self) -> dict[Unit, float]:
        asked = dict.fromkeys(Unit, 0.0)
        for one in self._running.values():
            asked[one.unit] += one.task.share
        return {unit: 1.0 / max(1.0, share) for unit, share in asked.items()}

    def _pass(self, until: float, speeds: Mapping[Unit, float]) -> None:
        for one in self._running.values():
            done = min((until - self.now) * speeds[one.unit], one.left)
            one.left -= done
            self._busy[one.unit] += done * one.task.share
        self.now = until


def _may_begin(task: Task, now: float) -> bool:
    return task.submitted <= now and (task.after is None or task.after.end is not None)


def _unit(work: Work) -> Unit:
    match work.operation:
        case CopyOperation(direction=Direction.UPLOAD):
            return Unit.UPLOAD
        case CopyOperation(direction=Direction.DOWNLOAD):
            return Unit.DOWNLOAD
        case _:
            return Unit.COMPUTE
