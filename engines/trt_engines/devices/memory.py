"""Memory of a device, and the pinned host memory that it copies to and from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

ALIGNMENT = 256
"""Bytes. What TensorRT asks of every tensor's address, and what every allocation of a device has."""


class Place(Enum):
    """Where memory lies."""

    DEVICE = "device"
    HOST = "host"  # pinned: the device copies to and from it without the host's help


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Allocation:
    """One block as a device gave it out; it is itself and equal to no other, whatever its address."""

    place: Place
    address: int
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Buffer:
    """Bytes `offset` to `offset + size` of one allocation."""

    allocation: Allocation
    offset: int
    size: int

    @property
    def address(self) -> int:
        return self.allocation.address + self.offset

    @property
    def end(self) -> int:
        """Offset of the first byte after it."""
        return self.offset + self.size

    @property
    def place(self) -> Place:
        return self.allocation.place

    @property
    def whole(self) -> bool:
        """Whether it is all of its allocation, so that it can be freed."""
        return self.offset == 0 and self.size == self.allocation.size

    def part(self, offset: int, size: int) -> Buffer:
        """Some of its bytes. Raises: ValueError: they are not inside."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"bytes {offset} to {offset + size} are not inside a buffer of {self.size} bytes")
        return Buffer(self.allocation, self.offset + offset, size)


def aligned(size: int) -> int:
    """The size rounded up so that what follows is aligned again."""
    return -(-size // ALIGNMENT) * ALIGNMENT
