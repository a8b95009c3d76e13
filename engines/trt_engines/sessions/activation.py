"""Memory for what a call needs between its layers."""

from __future__ import annotations

from trt_engines.devices.device import Device, Stream
from trt_engines.devices.memory import Buffer
from trt_engines.errors import OutOfMemory
from trt_engines.sessions.replay import Replay


class SharedActivation:
    """One block for all contexts of a stream, as large as the greediest of those that are there needs.

    They run in turn; on two streams at once they would spoil each other's results, which the simulated device finds.
    """

    def __init__(self, device: Device, stream: Stream) -> None:
        self._device = device
        self._stream = stream
        self._block: Buffer | None = None
        self._members: list[Replay] = []

    def add(self, member: Replay) -> None:
        """Give a context its place. Raises: OutOfMemory: all is as it was before."""
        before = list(self._members)
        self._members.append(member)
        try:
            self._fit()
        except OutOfMemory:
            self._members = before
            self._fit()  # takes no more than was just given back
            raise
        if self._block is not None:
            member.use_activation(self._block)

    def remove(self, member: Replay) -> None:
        """A context is not used any more."""
        self._members.remove(member)
        self._fit()

    def _fit(self) -> None:
        """Bring the block to the size that is needed now; where that changes, it moves, and graphs are made anew."""
        needed = max((one.context.activation_bytes for one in self._members), default=0)
        if needed == (self._block.size if self._block is not None else 0):
            return
        self._device.synchronize(self._stream)
        for one in self._members:
            one.forget()
        if self._block is not None:
            self._device.free(self._block)
            self._block = None
        if needed:
            self._block = self._device.allocate(needed)
            for one in self._members:
                one.use_activation(self._block)
