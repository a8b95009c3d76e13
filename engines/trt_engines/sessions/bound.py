"""An engine with its tensors on a device: allocated and bound once, for one bucket on one stream."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack

from trt_engines.devices.device import Device, Stream
from trt_engines.devices.memory import Buffer
from trt_engines.interface import Interface, TensorSpec
from trt_engines.sessions.activation import SharedActivation
from trt_engines.sessions.replay import Replay
from trt_engines.sessions.session import Session

MOST_CONTEXTS = 8
"""Numbers of rows that keep a context each; one more closes that which was called longest ago."""


class BoundEngine:
    """What a device's loop calls: rows are written into `tensors`, `run` puts the call into the stream.

    Every number of rows has a context of its own, made when it is first called; all of them work in one block of
    memory, in turn.

    Args:
        activation: memory shared with the engines of this stream; None: its own.
        label: name in logs and errors; None: the session's.
    Raises: OutOfMemory; EngineRefused: no profile takes the interface's shapes. Nothing stays allocated then.
    """

    def __init__(
        self,
        device: Device,
        session: Session,
        interface: Interface,
        stream: Stream,
        activation: SharedActivation | None = None,
        label: str | None = None,
    ) -> None:
        self.label = label or session.label
        self.stream = stream
        self.interface = interface
        self.rows = max(tensor.shape[tensor.row_axis] for tensor in interface.inputs)
        self._device = device
        self._session = session
        self._activation = activation or SharedActivation(device, stream)
        self._specs = {tensor.name: tensor for tensor in interface.tensors}
        self._buffers: dict[str, Buffer] = {}
        self._calls: OrderedDict[int, Replay] = OrderedDict()  # by rows, called longest ago first
        with ExitStack() as allocated:
            for name, one in self._specs.items():
                self._buffers[name] = device.allocate(one.bytes)
                allocated.callback(device.free, self._buffers[name])
            self._open(self.rows)  # the greediest: others find the memory that it needs
            allocated.callback(self._close_contexts)
            self._allocated = allocated.pop_all()

    def tensor(self, name: str) -> TensorSpec:
        """A tensor at full rows."""
        return self._specs[name]

    def part(self, name: str, rows: int) -> Buffer:
        """The first rows of a tensor, whose rows must be its first axis."""
        if self._specs[name].row_axis != 0:
            raise ValueError(f"{self.label}: rows of {name} do not lie together")
        return self.of_call(name, rows)

    def of_call(self, name: str, rows: int) -> Buffer:
        """A tensor as a call with so many rows has it: without gaps, whatever its row axis is."""
        return self._buffers[name].part(0, self._specs[name].bytes_at(rows))

    def run(self, rows: int) -> None:
        """Put one call into the stream. Raises: EngineFault. ValueError: more rows than there are, or none."""
        if not 1 <= rows <= self.rows:
            raise ValueError(f"{self.label}: {rows} rows asked of {self.rows}")
        if rows not in self._calls:
            if len(self._calls) == MOST_CONTEXTS:
                self._close_context(next(iter(self._calls)))
            self._open(rows)
        self._calls.move_to_end(rows)
        self._calls[rows].run()

    def close(self) -> None:
        """Wait for the stream and give the memory back."""
        self._device.synchronize(self.stream)
        self._allocated.close()

    def _open(self, rows: int) -> None:
        """Raises: OutOfMemory, EngineFault, EngineRefused: nothing was kept."""
        context = self._session.context(self.interface, self.stream)
        with ExitStack() as made:
            made.callback(context.close)  # whoever still holds this engine, or the error, must not hold weights
            replay = Replay(self._device, context, self.stream, rows)
            self._activation.add(replay)
            made.callback(self._activation.remove, replay)
            replay.bind(self._buffers)
            made.pop_all()
        self._calls[rows] = replay

    def _close_context(self, rows: int) -> None:
        replay = self._calls.pop(rows)
        replay.forget()
        self._activation.remove(replay)
        replay.context.close()

    def _close_contexts(self) -> None:
        for rows in tuple(self._calls):
            self._close_context(rows)
