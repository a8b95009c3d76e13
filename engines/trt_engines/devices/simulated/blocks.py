"""Blocks of the simulated card's memory: their bytes, what was written of them, and who touched them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import numpy as np

from trt_engines.devices.device import Stream
from trt_engines.devices.memory import Buffer
from trt_engines.devices.operations import Bytes
from trt_engines.devices.simulated.hazards import Site
from trt_engines.devices.simulated.order import Clock

POISON = 0xFF
"""Byte of memory that means nothing: NaN in every floating-point type, -1 in every integer."""


class Ranges:
    """A set of byte offsets, kept as ranges that do not touch."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        if start == end:
            return
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def covers(self, start: int, end: int) -> bool:
        if start == end:
            return True
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and self._ends[at] >= end


@dataclass(frozen=True, slots=True)
class Access:
    """An operation of a stream that reads or writes some of a block."""

    start: int
    end: int
    writes: bool
    stream: Stream
    number: int
    site: Site

    def touches(self, start: int, end: int) -> bool:
        return self.start < end and start < self.end

    def within(self, start: int, end: int) -> bool:
        return start <= self.start and self.end <= end


@dataclass(slots=True)
class Block:
    """One allocation. Its bytes exist once they are touched, so that gigabytes of weights cost nothing here."""

    size: int
    allocated: Site
    meaningless: int = POISON  # byte of what nobody has written
    seen: Site | None = None  # where the host was last given it to write
    written: Ranges = field(default_factory=Ranges)
    accesses: list[Access] = field(default_factory=list)
    _bytes: Bytes | None = None

    @property
    def bytes(self) -> Bytes:
        if self._bytes is None:
            self._bytes = np.full(self.size, self.meaningless, np.uint8)
        return self._bytes

    def poison(self) -> None:
        if self._bytes is not None:
            self._bytes[:] = self.meaningless

    def conflict(self, buffer: Buffer, writes: bool, known: Clock) -> Access | None:
        """An earlier access that is not known to be done and does not go with this one."""
        for access in self.accesses:
            if (
                (writes or access.writes)
                and access.touches(buffer.offset, buffer.end)
                and not known.knows(access.stream, access.number)
            ):
                return access
        return None

    def note(self, access: Access, known: Clock) -> None:
        """Remember an access; what it supersedes is forgotten: any access after this one is ordered after that too."""
        self.accesses = [
            earlier
            for earlier in self.accesses
            if not (
                earlier.within(access.start, access.end)
                and (access.writes or not earlier.writes)
                and known.knows(earlier.stream, earlier.number)
            )
        ]
        self.accesses.append(access)

    def forget(self, known: Clock) -> None:
        """Drop accesses that the host, and so everything from now on, knows to be done."""
        self.accesses = [one for one in self.accesses if not known.knows(one.stream, one.number)]
