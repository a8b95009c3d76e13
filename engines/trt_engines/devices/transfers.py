"""Copies and fills as host code."""

from __future__ import annotations

from collections.abc import Callable

from trt_engines.devices.memory import Buffer, Place
from trt_engines.devices.operations import Bytes, CopyOperation, Direction, FillOperation, Work

_DIRECTIONS = {
    (Place.HOST, Place.DEVICE): Direction.UPLOAD,
    (Place.DEVICE, Place.HOST): Direction.DOWNLOAD,
    (Place.DEVICE, Place.DEVICE): Direction.INSIDE,
}


def direction(destination: Buffer, source: Buffer) -> Direction:
    """Which way a copy goes. Raises: ValueError: the sizes differ, or both ends are host memory."""
    if destination.size != source.size:
        raise ValueError(f"{source.size} bytes cannot be copied into {destination.size}")
    ends = source.place, destination.place
    if ends not in _DIRECTIONS:
        raise ValueError("a copy from host memory to host memory is not the device's business")
    return _DIRECTIONS[ends]


def copy_work(destination: Buffer, source: Buffer) -> Work:
    """A copy. Raises: ValueError: see `direction`."""

    def run(bytes_of: Callable[[Buffer], Bytes]) -> None:
        bytes_of(destination)[:] = bytes_of(source)

    operation = CopyOperation(direction=direction(destination, source), size=source.size)
    return Work(operation=operation, reads=(source,), writes=(destination,), run=run)


def fill_work(buffer: Buffer, value: int) -> Work:
    """Every byte set to `value`. Raises: ValueError: not 0..255, or host memory."""
    if not 0 <= value <= 255 or buffer.place is not Place.DEVICE:
        raise ValueError(f"device memory is filled with a byte, not {buffer.place.value} memory with {value}")

    def run(bytes_of: Callable[[Buffer], Bytes]) -> None:
        bytes_of(buffer)[:] = value

    return Work(operation=FillOperation(size=buffer.size), reads=(), writes=(buffer,), run=run)
