"""The processor as a device: NumPy memory, and every operation done before its call returns."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.devices.device import DeviceProperties, Event, Graph, MemoryInfo, Resource, Stream
from trt_engines.devices.memory import ALIGNMENT, Allocation, Buffer, Place
from trt_engines.devices.operations import Bytes, Work
from trt_engines.devices.transfers import copy_work, fill_work
from trt_engines.errors import OutOfMemory
from trt_engines.kernels.kernel import KernelCall
from trt_engines.machine_memory import machine_memory


class CpuDevice:
    """The embedded default. Host and device memory are the same, and there is nothing to wait for."""

    def __init__(self) -> None:
        self._memory: dict[Allocation, Bytes] = {}
        self._graphs: dict[Graph, list[Work]] = {}
        self._capturing: list[Work] | None = None
        self._recorded: dict[Event, float] = {}  # when, of those that are timed
        self._handles = count(1)

    @property
    def properties(self) -> DeviceProperties:
        return DeviceProperties(
            name=platform.processor() or platform.machine(),
            sm=None,
            memory_bytes=machine_memory().total,
            multiprocessors=len(os.sched_getaffinity(0)),
        )

    def memory_info(self) -> MemoryInfo:
        memory = machine_memory()
        return MemoryInfo(free=memory.free, total=memory.total)

    def allocate(self, size: int, place: Place = Place.DEVICE) -> Buffer:
        try:
            block = np.empty(size + ALIGNMENT, np.uint8)
        except MemoryError as error:
            raise OutOfMemory(f"no room in memory for {size} bytes") from error
        start = -block.ctypes.data % ALIGNMENT
        block = block[start : start + size]
        allocation = Allocation(place, block.ctypes.data, size)
        self._memory[allocation] = block
        return Buffer(allocation, 0, size)

    def free(self, resource: Resource) -> None:
        match resource:
            case Graph():
                del self._graphs[resource]
            case Event():
                self._recorded.pop(resource, None)
            case Buffer() if resource.whole:
                del self._memory[resource.allocation]
            case Buffer():
                raise ValueError("a part of an allocation cannot be freed")

    def view(
        self, buffer: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], *, write: bool = False
    ) -> NDArray[Any]:
        if buffer.place is not Place.HOST:
            raise ValueError("only host memory can be seen by the host")
        array = self._bytes(buffer).view(dtype).reshape(shape)
        array.flags.writeable = write
        return array

    def create_stream(self, label: str) -> Stream:
        return Stream(next(self._handles), label)

    def create_event(self, label: str, *, timed: bool = False) -> Event:
        event = Event(next(self._handles), label)
        if timed:
            self._recorded[event] = math.nan
        return event

    def record(self, event: Event, stream: Stream) -> None:
        if event in self._recorded:
            self._recorded[event] = perf_counter()

    def wait(self, stream: Stream, event: Event) -> None:
        pass

    def synchronize(self, target: Stream | Event) -> None:
        pass

    def done(self, event: Event) -> bool:
        return True

    def elapsed(self, start: Event, end: Event) -> float:
        return self._recorded[end] - self._recorded[start]

    def copy(self, destination: Buffer, source: Buffer, stream: Stream) -> None:
        self.enqueue(copy_work(destination, source), stream)

    def fill(self, buffer: Buffer, value: int, stream: Stream) -> None:
        self.enqueue(fill_work(buffer, value), stream)

    def launch(self, call: KernelCall, stream: Stream) -> None:
        self.enqueue(call.work(), stream)

    def enqueue(self, work: Work, stream: Stream) -> None:
        if self._capturing is None:
            work.run(self._bytes)
        else:
            self._capturing.append(work)

    def capture(self, stream: Stream, work: Callable[[], None], label: str) -> Graph:
        if self._capturing is not None:
            raise ValueError(f"{label}: a capture is already under way")
        captured = self._capturing = []
        try:
            work()
        finally:
            self._capturing = None
        graph = Graph(next(self._handles), label)
        self._graphs[graph] = captured
        return graph

    def launch_graph(self, graph: Graph, stream: Stream) -> None:
        for work in self._graphs[graph]:
            self.enqueue(work, stream)

    def close(self) -> None:
        for held in (self._graphs, self._recorded, self._memory):
            held.clear()

    def _bytes(self, buffer: Buffer) -> Bytes:
        return self._memory[buffer.allocation][buffer.offset : buffer.end]
