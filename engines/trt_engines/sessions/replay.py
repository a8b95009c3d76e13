"""Calls of a context that are captured the first time and launched as one from then on."""

from __future__ import annotations

from collections.abc import Mapping

from loguru import logger

from trt_engines.devices.device import Device, Graph, Stream
from trt_engines.devices.errors import CaptureRefused
from trt_engines.devices.memory import Buffer
from trt_engines.errors import EngineFault
from trt_engines.sessions.session import Context


class Replay:
    """A context with a graph of its calls with as many rows as it was last called with.

    The first call with a number of rows runs plainly, as libraries demand after a change of shape, and is captured
    right after; calls with the same rows launch what was captured. A context has one graph at most: a graph holds
    state of its context, and is void once that is given other rows (NVIDIA/TensorRT#3798). Where a call cannot be
    captured, every call is plain.
    """

    def __init__(self, device: Device, context: Context, stream: Stream) -> None:
        self.context = context
        self._device = device
        self._stream = stream
        self._graph: Graph | None = None
        self._rows: int | None = None  # that the context is set to
        self._refused = False  # what was tried and failed is not tried with every call

    @property
    def captured_rows(self) -> int | None:
        """Rows for which there is a graph."""
        return self._rows if self._graph is not None else None

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        """Set the tensors' places; the host waits for the stream if there is a graph to be dropped."""
        self.forget()
        self.context.bind(tensors)

    def use_activation(self, memory: Buffer) -> None:
        """Let the context work in this memory; the host waits for the stream if there is a graph to be dropped."""
        self.forget()
        self.context.use_activation(memory)

    def run(self, rows: int) -> None:
        """Put one call into the stream; the host waits for it if there is a graph of other rows.

        Raises: EngineFault.
        """
        if self._rows != rows:
            self.forget()
            self._rows = None  # until all tensors have them
            self.context.set_rows(rows)
            self._rows = rows
        if self._graph is not None:
            self._device.launch_graph(self._graph, self._stream)
            return
        self.context.enqueue(self._stream)
        if self.context.capturable and not self._refused:
            self._capture(f"{rows} rows")

    def forget(self) -> None:
        """Drop the graph, once the stream is done with it."""
        if self._graph is not None:
            self._device.synchronize(self._stream)
            self._device.free(self._graph)
            self._graph = None

    def _capture(self, label: str) -> None:
        """The call was just run: that it cannot be captured costs speed, and nothing else."""
        try:
            self._graph = self._device.capture(self._stream, lambda: self.context.enqueue(self._stream), label)
        except (CaptureRefused, EngineFault) as error:
            self._refused = True
            logger.warning("Calls cannot be captured into a graph, and each is launched anew, slower: {}", error)
