"""Several allocations, or none."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from trt_engines.devices.device import Device
from trt_engines.devices.memory import Buffer, Place


def allocate_together(device: Device, wanted: Iterable[tuple[int, Place]]) -> tuple[Buffer, ...]:
    """A block for each size in bytes and place. Raises: OutOfMemory: one found no room; then none stays allocated."""
    blocks = []
    with ExitStack() as undo:
        for size, place in wanted:
            blocks.append(device.allocate(size, place))
            undo.callback(device.free, blocks[-1])
        undo.pop_all()
    return tuple(blocks)
