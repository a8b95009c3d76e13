"""Work that waits in the simulated card's streams, and the random order in which it is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from trt_engines.devices.device import Stream
from trt_engines.devices.operations import Work


@dataclass(slots=True, eq=False, kw_only=True)
class Task:
    """One place in a stream: work, a mark that an event left, or a wait for such a mark."""

    stream: Stream
    number: int  # place in its stream, from 1
    submitted: float  # seconds on the card's clock
    seconds: float  # how long it takes once begun, if nothing else runs
    share: float  # of its part of the card that it keeps busy meanwhile
    work: Work | None = None
    after: Task | None = None  # a wait: the mark that must come first
    done: bool = False
    end: float | None = None  # seconds on the card's clock; None: not settled yet


class ShuffledQueues:
    """Streams that do nothing until something waits, and then advance in any order that the events allow."""

    def __init__(self, random: Random, run: Callable[[Task], None]) -> None:
        self._random = random
        self._run = run
        self._queues: dict[Stream, deque[Task]] = {}

    def push(self, task: Task) -> None:
        self._queues.setdefault(task.stream, deque()).append(task)

    def run_until(self, target: Task) -> None:
        """Do tasks of random streams until the target is done. A mark is queued before any wait for it, so it ends."""
        while not target.done:
            ready = [queue for queue in self._queues.values() if queue and _may_begin(queue[0])]
            task = self._random.choice(ready).popleft()
            task.done = True
            self._run(task)


def _may_begin(task: Task) -> bool:
    return task.after is None or task.after.done
