"""Pinned blocks that are written by the host and uploaded in turn."""

from __future__ import annotations

from trt_engines.devices.allocation import allocate_together
from trt_engines.devices.device import Device, Stream
from trt_engines.devices.memory import Buffer, Place


class StagingRing:
    """So many blocks that the host fills one while earlier ones are still being uploaded.

    Args:
        size: bytes of each block.
        blocks: how far the host may run ahead of the device before it waits.
    Raises: OutOfMemory.
    """

    def __init__(self, device: Device, size: int, blocks: int) -> None:
        self._device = device
        self._blocks = allocate_together(device, [(size, Place.HOST)] * blocks)
        self._sent = [device.create_event(f"block {number} is uploaded") for number in range(blocks)]
        self._in_flight = [False] * blocks
        self._current = -1

    def next(self) -> Buffer:
        """A block that may be written; waits for its last upload, which was as many turns ago as there are blocks."""
        self._current = (self._current + 1) % len(self._blocks)
        if self._in_flight[self._current]:
            self._device.synchronize(self._sent[self._current])
        return self._blocks[self._current]

    def sent(self, stream: Stream) -> None:
        """The block of the last `next` is on its way in this stream."""
        self._device.record(self._sent[self._current], stream)
        self._in_flight[self._current] = True

    def free(self) -> None:
        """Give the blocks back. The stream must have been waited for."""
        for block in self._blocks:
            self._device.free(block)
        for event in self._sent:
            self._device.free(event)
