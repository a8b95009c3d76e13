"""The simulated card's memory: what lives, who uses it, and whether that is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from trt_engines.devices.device import Stream
from trt_engines.devices.memory import Allocation, Buffer, Place, aligned
from trt_engines.devices.operations import Bytes
from trt_engines.devices.simulated.blocks import POISON, Access, Block
from trt_engines.devices.simulated.hazards import (
    CardFull,
    FreedInFlight,
    NeverWritten,
    Race,
    ReadBeforeWait,
    Site,
    UsedAfterFree,
    WrittenInFlight,
)
from trt_engines.devices.simulated.order import Clock

_FIRST_ADDRESS = 0x7F00_0000_0000


class SimulatedMemory:
    """Device memory of `capacity` bytes, and pinned host memory without a bound. Addresses are never used twice.

    Args: meaningless: byte of memory that was never written, or is still to be.
    """

    def __init__(self, capacity: int, *, meaningless: int = POISON) -> None:
        self.capacity = capacity
        self._meaningless = meaningless
        self.used = 0
        self._next = _FIRST_ADDRESS
        self._living: dict[Allocation, Block] = {}
        self._used: dict[Allocation, Block] = {}  # living, and touched by what the host does not know to be done
        self._freed: WeakKeyDictionary[Allocation, Site] = WeakKeyDictionary()

    def allocate(self, size: int, place: Place, where: Site) -> Buffer:
        """Raises: CardFull."""
        if place is Place.DEVICE and self.used + aligned(size) > self.capacity:
            raise CardFull(self._largest(where), where)
        allocation = Allocation(place, self._next, size)
        self._next += aligned(max(size, 1))
        self._living[allocation] = Block(size, where, self._meaningless)
        if place is Place.DEVICE:
            self.used += aligned(size)
        return Buffer(allocation, 0, size)

    def free(self, buffer: Buffer, known: Clock, where: Site) -> None:
        """Raises: UsedAfterFree, FreedInFlight; ValueError: only a part."""
        block = self.block(buffer, where)
        if not buffer.whole:
            raise ValueError("a part of an allocation cannot be freed")
        if running := block.conflict(buffer, True, known):
            raise FreedInFlight(running.site, where)
        block.poison()
        del self._living[buffer.allocation]
        self._used.pop(buffer.allocation, None)
        self._freed[buffer.allocation] = where
        if buffer.place is Place.DEVICE:
            self.used -= aligned(buffer.size)

    def block(self, buffer: Buffer, where: Site) -> Block:
        """Raises: UsedAfterFree."""
        if gone := self._freed.get(buffer.allocation):
            raise UsedAfterFree(gone, where)
        return self._living[buffer.allocation]

    def freed(self, buffer: Buffer) -> Site | None:
        """Where it was freed; None: it lives."""
        return self._freed.get(buffer.allocation)

    def bytes(self, buffer: Buffer) -> Bytes:
        return self._living[buffer.allocation].bytes[buffer.offset : buffer.end]

    def use(
        self, reads: Sequence[Buffer], writes: Sequence[Buffer], stream: Stream, number: int, known: Clock, where: Site
    ) -> None:
        """Check an operation against everything before it, and remember it.

        Args:
            known: what is done before it begins.
        Raises: UsedAfterFree, NeverWritten, Race.
        """
        for buffer in reads:
            block = self.block(buffer, where)
            if not block.written.covers(buffer.offset, buffer.end):
                raise NeverWritten(block.allocated, where)
        for writing, buffers in ((False, reads), (True, writes)):
            for buffer in buffers:
                if before := self.block(buffer, where).conflict(buffer, writing, known):
                    raise Race(before.site, where)
        for writing, buffers in ((False, reads), (True, writes)):
            for buffer in buffers:
                block = self.block(buffer, where)
                if writing:
                    self._poison_result(block, buffer)
                    block.written.add(buffer.offset, buffer.end)
                self._used[buffer.allocation] = block
                block.note(Access(buffer.offset, buffer.end, writing, stream, number, where), known)

    def host_reads(self, buffer: Buffer, known: Clock, where: Site) -> None:
        """Raises: UsedAfterFree, NeverWritten, ReadBeforeWait."""
        block = self.block(buffer, where)
        if before := block.conflict(buffer, False, known):
            raise ReadBeforeWait(before.site, where)
        if not block.written.covers(buffer.offset, buffer.end):
            raise NeverWritten(block.allocated, where)

    def host_writes(self, buffer: Buffer, known: Clock, where: Site) -> None:
        """Raises: UsedAfterFree, WrittenInFlight."""
        block = self.block(buffer, where)
        if before := block.conflict(buffer, True, known):
            raise WrittenInFlight(before.site, where)
        block.written.add(buffer.offset, buffer.end)
        block.seen = where

    def seen(self, buffer: Buffer) -> Site:
        """Where the host was last given the memory to write."""
        block = self._living[buffer.allocation]
        return block.seen or block.allocated

    def forget(self, known: Clock) -> None:
        """Drop what the host knows to be done."""
        for block in self._used.values():
            block.forget(known)
        self._used = {allocation: block for allocation, block in self._used.items() if block.accesses}

    def _poison_result(self, block: Block, buffer: Buffer) -> None:
        """What the host holds of a download's target means nothing until the download is done."""
        if buffer.place is Place.HOST and not block.accesses:
            block.bytes[buffer.offset : buffer.end] = self._meaningless

    def _largest(self, otherwise: Site) -> Site:
        on_card = [block for allocation, block in self._living.items() if allocation.place is Place.DEVICE]
        return max(on_card, key=lambda block: block.size).allocated if on_card else otherwise
