"""A device that does nothing: what is left of the worker's loop on it is the host's own time."""

from __future__ import annotations

from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import Stream
from trt_engines.devices.memory import Buffer, Place
from trt_engines.devices.operations import Work


class IdleDevice(CpuDevice):
    """Memory is zeros and stays so; work is captured, and neither run nor launched."""

    def allocate(self, size: int, place: Place = Place.DEVICE) -> Buffer:
        buffer = super().allocate(size, place)
        self._bytes(buffer)[:] = 0
        return buffer

    def enqueue(self, work: Work, stream: Stream) -> None:
        if self._capturing is not None:
            super().enqueue(work, stream)
