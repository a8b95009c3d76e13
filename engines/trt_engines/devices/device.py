"""The device interface: everything that is asked of a card, and no more.

The loop is written once against it. Work goes to streams in order; streams run side by side and are ordered
only by events and by `synchronize`. Nothing here blocks the host except `synchronize`, `free` and `close`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trt_engines.devices.memory import Buffer, Place
from trt_engines.devices.operations import Work
from trt_engines.kernels.kernel import KernelCall


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProperties:
    """What a device is."""

    name: str
    sm: int | None  # compute capability times ten; None: not a CUDA device
    memory_bytes: int
    multiprocessors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryInfo:
    """Device memory, bytes."""

    free: int
    total: int


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A queue of work. `handle` is CUDA's pointer; on other devices it is a number."""

    handle: int
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A place in a stream that other streams and the host can wait for."""

    handle: int
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Work that was captured once and is launched as one; its addresses are fixed."""

    handle: int
    label: str


Resource = Buffer | Graph | Event | Stream


class Device(Protocol):
    """One card, or what stands in for it. For one thread."""

    @property
    def properties(self) -> DeviceProperties:
        """What this device is."""

    def memory_info(self) -> MemoryInfo:
        """How much device memory is left."""

    def allocate(self, size: int, place: Place = Place.DEVICE) -> Buffer:
        """Memory of `size` bytes, 256-byte aligned; its content is undefined. Raises: OutOfMemory."""

    def free(self, resource: Resource) -> None:
        """Give back a whole allocation, a graph or a stream with nothing in flight, or an event."""

    def view(
        self, buffer: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], *, write: bool = False
    ) -> NDArray[Any]:
        """Pinned host memory as an array, to be used at once.

        What a device wrote is there after the host has waited for it; what a device still reads must not be written.
        """

    def create_stream(self, label: str) -> Stream:
        """A stream that runs beside all others."""

    def create_event(self, label: str, *, timed: bool = False) -> Event:
        """An event that nothing has recorded yet. Args: timed: `elapsed` will be asked about it."""

    def record(self, event: Event, stream: Stream) -> None:
        """Mark the place that the stream has come to."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Hold the stream's further work until what the event marks now is done."""

    def synchronize(self, target: Stream | Event) -> None:
        """Hold the host until the stream is empty, or until what the event marks is done."""

    def done(self, event: Event) -> bool:
        """Whether what the event marks is done; never blocks. Once true, it is as if the host had waited for it."""

    def elapsed(self, start: Event, end: Event) -> float:
        """Seconds of the device's own clock between two timed events, both of which are done."""

    def copy(self, destination: Buffer, source: Buffer, stream: Stream) -> None:
        """Copy a buffer to one of the same size, between any two places but host and host."""

    def fill(self, buffer: Buffer, value: int, stream: Stream) -> None:
        """Set every byte of device memory to `value`, 0..255."""

    def launch(self, call: KernelCall, stream: Stream) -> None:
        """Run a kernel."""

    def capture(self, stream: Stream, work: Callable[[], None], label: str) -> Graph:
        """What `work` asks of the stream, as a graph, not run. Inside, memory is neither allocated nor freed.

        Raises: CaptureRefused: it asks for something that a graph cannot do.
        """

    def launch_graph(self, graph: Graph, stream: Stream) -> None:
        """Run all of a graph's work."""

    def close(self) -> None:
        """Wait for all work and give everything back."""


class HostComputingDevice(Device, Protocol):
    """A device whose work is host code: sessions that run a graph on the processor need nothing more."""

    def enqueue(self, work: Work, stream: Stream) -> None:
        """Put work that is host code into a stream."""
