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
    """A context whose calls all have the same rows.

    The first one runs plainly, as libraries demand after a change of shape, and is captured right after; later ones
    launch what was captured. A graph holds state of its context and is void once that is given other rows
    (NVIDIA/TensorRT#3798), so other rows take a context of their own. Where a call cannot be captured, every call is
    plain.

    Args: rows: of every call.
    """

    def __init__(self, device: Device, context: Context, stream: Stream, rows: int) -> None:
        self.context = context
        self._device = device
        self._stream = stream
        self._label = f"{rows} rows"
        self._graph: Graph | None = None
        self._refused = False  # what was tried and failed is not tried with every call
        context.set_rows(rows)

    @property
    def captured(self) -> bool:
        """Whether there is a graph."""
        return self._graph is not None

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        """Set the tensors' places; the host waits for the stream if there is a graph to be dropped."""
        self.forget()
        self.context.bind(tensors)

    def use_activation(self, memory: Buffer) -> None:
        """Let the context work in this memory; the host waits for the stream if there is a graph to be dropped."""
        self.forget()
        self.context.use_activation(memory)

    def run(self) -> None:
        """Put one call into the stream. Raises: EngineFault, OutOfMemory."""
        if self._graph is not None:
            self._device.launch_graph(self._graph, self._stream)
            return
        self.context.enqueue(self._stream)
        if self.context.capturable and not self._refused:
            self._capture()

    def forget(self) -> None:
        """Drop the graph, once the stream is done with it."""
        if self._graph is not None:
            self._device.synchronize(self._stream)
            self._device.free(self._graph)
            self._graph = None

    def _capture(self) -> None:
        """The call was just run: that it cannot be captured costs speed, and nothing else."""
        try:
            self._graph = self._device.capture(self._stream, lambda: self.context.enqueue(self._stream), self._label)
        except (CaptureRefused, EngineFault) as error:
            self._refused = True
            logger.warning("Calls cannot be captured into a graph, and each is launched anew, slower: {}", error)
