"""One block of memory in which several contexts work in turn."""

from __future__ import annotations

from collections.abc import Sequence

from trt_engines.devices.device import Device
from trt_engines.devices.memory import Buffer
from trt_engines.sessions.session import Context


def share_activation(device: Device, contexts: Sequence[Context]) -> Buffer:
    """Let contexts share a block of the size that the greediest needs.

    They must run in turn: on one stream, or on several that events order. On two streams at once they would spoil each
    other's results; the simulated device finds that.

    Returns: the block; it is freed by the caller, after the contexts.
    Raises: OutOfMemory.
    """
    block = device.allocate(max(context.activation_bytes for context in contexts))
    for context in contexts:
        context.use_activation(block)
    return block
