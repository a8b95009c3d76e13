"""Calls of a context that are captured the first time and launched as one from then on."""

from __future__ import annotations

from collections.abc import Mapping

from trt_engines.devices.device import Device, Graph, Stream
from trt_engines.devices.memory import Buffer
from trt_engines.sessions.session import Context


class Replay:
    """A context with a graph for every number of rows it was called with.

    The first call with a number of rows runs plainly, as libraries demand after a change of shape, and is captured
    right after; later calls launch what was captured. Where the library cannot be captured, every call is plain.
    """

    def __init__(self, device: Device, context: Context, stream: Stream) -> None:
        self.context = context
        self._device = device
        self._stream = stream
        self._graphs: dict[int, Graph] = {}
        self._rows: int | None = None  # that the context is set to

    @property
    def captured_rows(self) -> tuple[int, ...]:
        """Rows for which there is a graph."""
        return tuple(self._graphs)

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        """Set the tensors' places; the host waits for the stream if there are graphs to be dropped."""
        self.forget()
        self.context.bind(tensors)

    def use_activation(self, memory: Buffer) -> None:
        """Let the context work in this memory; the host waits for the stream if there are graphs to be dropped."""
        self.forget()
        self.context.use_activation(memory)

    def run(self, rows: int) -> None:
        """Put one call into the stream. Raises: EngineFault."""
        if graph := self._graphs.get(rows):
            self._device.launch_graph(graph, self._stream)
            return
        if self._rows != rows:
            self.context.set_rows(rows)
            self._rows = rows
        self.context.enqueue(self._stream)
        if self.context.capturable:
            label = f"{rows} rows"
            self._graphs[rows] = self._device.capture(self._stream, lambda: self.context.enqueue(self._stream), label)

    def forget(self) -> None:
        """Drop the graphs, once the stream is done with them."""
        if self._graphs:
            self._device.synchronize(self._stream)
        for graph in self._graphs.values():
            self._device.free(graph)
        self._graphs.clear()
