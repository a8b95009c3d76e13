"""An engine with its tensors on a device: allocated and bound once, for one bucket on one stream."""

from __future__ import annotations

from contextlib import ExitStack

from trt_engines.devices.device import Device, Stream
from trt_engines.devices.memory import Buffer
from trt_engines.interface import Interface, TensorSpec
from trt_engines.sessions.activation import SharedActivation, share_activation
from trt_engines.sessions.replay import Replay
from trt_engines.sessions.session import Session


class BoundEngine:
    """What a device's loop calls: rows are written into `tensors`, `run` puts the call into the stream.

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
        self._specs = {tensor.name: tensor for tensor in (*interface.inputs, *interface.outputs)}
        context = session.context(interface, stream)
        self._buffers: dict[str, Buffer] = {}
        with ExitStack() as allocated:
            allocated.callback(context.close)  # whoever still holds this engine, or the error, must not hold weights
            for name, one in self._specs.items():
                self._buffers[name] = device.allocate(one.bytes)
                allocated.callback(device.free, self._buffers[name])
            self._replay = Replay(device, context, stream)
            if activation is None:
                allocated.callback(device.free, share_activation(device, [context]))
            else:
                activation.add(self._replay)
                allocated.callback(activation.remove, self._replay)
            self._replay.bind(self._buffers)
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
        self._replay.run(rows)

    def close(self) -> None:
        """Wait for the stream and give the memory back."""
        self._device.synchronize(self.stream)
        self._replay.forget()
        self._allocated.close()
