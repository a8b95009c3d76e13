"""When each operation of the simulated card begins and ends.

A discrete-event simulation: an operation begins when its stream has come to it, what it waits for has ended and a unit
that can do it is free; the earliest begins first, and of those that wait for a unit the one that has waited longest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from heapq import heapreplace
from math import inf

from trt_engines.devices.device import Stream
from trt_engines.devices.operations import CopyOperation, Direction, Work
from trt_engines.devices.simulated.queue import Task


class Unit(Enum):
    """Parts of a card that work side by side."""

    COMPUTE = "compute"
    UPLOAD = "upload"
    DOWNLOAD = "download"


UNITS: Mapping[Unit, int] = {Unit.COMPUTE: 1, Unit.UPLOAD: 1, Unit.DOWNLOAD: 1}
"""A card as we use it: engines fill it, so they take turns; a copy each way runs beside them."""


@dataclass(slots=True)
class _StreamTime:
    queue: deque[tuple[int, Task]] = field(default_factory=deque)
    ready: float = 0.0


class Timeline:
    """Args: units: how many of each the card has."""

    def __init__(self, units: Mapping[Unit, int] = UNITS) -> None:
        self._free = {unit: [0.0] * count for unit, count in units.items()}
        self._streams: dict[Stream, _StreamTime] = {}
        self._pushed = 0
        self.busy = dict.fromkeys(units, 0.0)  # seconds of work, over all units of a kind

    def push(self, task: Task) -> None:
        self._pushed += 1
        self._streams.setdefault(task.stream, _StreamTime()).queue.append((self._pushed, task))

    def settle(self, target: Task) -> float:
        """When the target ends: settles everything that begins before it. Returns: seconds on the clock."""
        while target.end is None:
            self._begin_next(inf)
        return target.end

    def settle_until(self, now: float) -> None:
        """Settle everything that begins by `now`."""
        while self._begin_next(now):
            pass

    def _begin_next(self, limit: float) -> bool:
        """Settle the one task that can begin first; False: none does by the limit."""
        heads = [
            (max(ready, self._free_at(task)), ready, order, stream, task)
            for stream in self._streams.values()
            if stream.queue
            for order, task in (stream.queue[0],)
            if task.after is None or task.after.end is not None
            for ready in (_ready(stream, task),)
        ]
        start, *_, stream, task = min(heads, key=lambda head: head[:3], default=(inf, None, None))
        if stream is None or task is None or start > limit:
            return False
        stream.queue.popleft()
        stream.ready = task.end = start + task.seconds
        if task.work is not None:
            unit = _unit(task.work)
            heapreplace(self._free[unit], task.end)
            self.busy[unit] += task.seconds
        return True

    def _free_at(self, task: Task) -> float:
        return self._free[_unit(task.work)][0] if task.work is not None else 0.0


def _ready(stream: _StreamTime, task: Task) -> float:
    """When nothing but a unit is missing."""
    awaited = task.after.end if task.after is not None and task.after.end is not None else 0.0
    return max(stream.ready, task.submitted, awaited)


def _unit(work: Work) -> Unit:
    match work.operation:
        case CopyOperation(direction=Direction.UPLOAD):
            return Unit.UPLOAD
        case CopyOperation(direction=Direction.DOWNLOAD):
            return Unit.DOWNLOAD
        case _:
            return Unit.COMPUTE
