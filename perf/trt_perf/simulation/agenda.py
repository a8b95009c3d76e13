"""What happens outside of the card, on its clock: things that are due, and lanes on which they wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush, heapreplace
from itertools import count
from math import inf

Due = Callable[[float], None]
"""What happens, told when: it may be handled later, but in the order of time."""


class Agenda:
    """What is due, in order of time."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Due]] = []
        self._numbers = count()

    @property
    def next(self) -> float:
        """When the next thing is due; infinite: nothing is."""
        return self._due[0][0] if self._due else inf

    def at(self, time: float, due: Due) -> None:
        """Put something down. Of things due at the same time, the one that was put down first comes first."""
        heappush(self._due, (time, next(self._numbers), due))

    def handle(self, now: float) -> None:
        """Let everything happen that is due by now, and what that makes due by now."""
        while self.next <= now:
            time, _, due = heappop(self._due)
            due(time)


class Lanes:
    """So many things at a time, the others wait in the order in which they came.

    Args: count: how many at a time.
    """

    def __init__(self, agenda: Agenda, count: int) -> None:
        self._agenda = agenda
        self._free = [0.0] * count  # since when each lane is, or from when on it will be

    def take(self, now: float, seconds: float, then: Due) -> None:
        """Something comes: it takes so long once it has a lane. Args: now: no earlier than of the one before."""
        end = max(now, self._free[0]) + seconds
        heapreplace(self._free, end)
        self._agenda.at(end, then)
