"""A CUDA card. Translates calls and decides nothing: only a card can run it, so there is as little of it as can be.

Memory, streams, events and graphs go through `cuda.bindings.runtime`, which is CUDA's own interface; kernels through
`cuda.core`. tests/engines/contracts hold every call to the installed libraries' signatures.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.devices.device import DeviceProperties, Event, Graph, MemoryInfo, Resource, Stream
from trt_engines.devices.errors import CaptureRefused, DeviceFault, DeviceUnavailable
from trt_engines.devices.memory import Allocation, Buffer, Place
from trt_engines.devices.transfers import direction, fill_work
from trt_engines.errors import OutOfMemory
from trt_engines.kernels.compile import INSTALL, CompiledKernels
from trt_engines.kernels.kernel import BLOCK, KernelCall


class CudaDevice:
    """One card, through its primary context. For the thread that made it.

    Args:
        number: CUDA's, after CUDA_VISIBLE_DEVICES.
    Raises: DeviceUnavailable: no such card, no driver, or cuda-python is not installed. DeviceFault.
    """

    def __init__(self, number: int = 0) -> None:
        try:
            self._runtime: Any = import_module("cuda.bindings.runtime")
            self._core: Any = import_module("cuda.core")
        except ImportError as error:
            raise DeviceUnavailable(
                f"cards are driven with cuda-python, which does not load ({error}): {INSTALL}"
            ) from error
        runtime, self._name = self._runtime, f"CUDA device {number}"
        status, count = runtime.cudaGetDeviceCount()
        if status != runtime.cudaError_t.cudaSuccess:
            raise DeviceUnavailable(
                f"CUDA finds no card ({status.name}); is the NVIDIA driver installed and recent enough?"
            )
        if number >= count:
            raise DeviceUnavailable(f"there is no CUDA device {number}: this process sees {count}")
        self._call(runtime.cudaSetDevice(number))
        self._core.Device(number).set_current()
        found = self._call(runtime.cudaGetDeviceProperties(number))
        sm = 10 * found.major + found.minor
        self.properties = DeviceProperties(
            name=found.name.decode(),
            sm=sm,
            memory_bytes=found.totalGlobalMem,
            multiprocessors=found.multiProcessorCount,
        )
        self._kernels = CompiledKernels(sm)
        self._launchers: dict[Stream, Any] = {}
        self._streams: dict[Stream, Any] = {}
        self._events: dict[Event, Any] = {}
        self._graphs: dict[Graph, Any] = {}
        self._memory: set[Allocation] = set()

    def memory_info(self) -> MemoryInfo:
        free, total = self._call(self._runtime.cudaMemGetInfo())
        return MemoryInfo(free=free, total=total)

    def allocate(self, size: int, place: Place = Place.DEVICE) -> Buffer:
        runtime = self._runtime
        if place is Place.DEVICE:
            address = self._call(runtime.cudaMalloc(size))
        else:
            address = self._call(runtime.cudaHostAlloc(size, runtime.cudaHostAllocDefault))
        allocation = Allocation(place, int(address), size)
        self._memory.add(allocation)
        return Buffer(allocation, 0, size)

    def free(self, resource: Resource) -> None:
        match resource:
            case Graph():
                self._call(self._runtime.cudaGraphExecDestroy(self._graphs.pop(resource)))
            case Event():
                self._call(self._runtime.cudaEventDestroy(self._events.pop(resource)))
            case Stream():
                self._launchers.pop(resource, None)
                self._call(self._runtime.cudaStreamDestroy(self._streams.pop(resource)))
            case Buffer() if resource.whole:
                self._memory.remove(resource.allocation)
                self._free(resource.allocation)
            case Buffer():
                raise ValueError("a part of an allocation cannot be freed")

    def view(
        self, buffer: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], *, write: bool = False
    ) -> NDArray[Any]:
        if buffer.place is not Place.HOST:
            raise ValueError("only host memory can be seen by the host")
        raw = (ctypes.c_uint8 * buffer.size).from_address(buffer.address)
        array: NDArray[Any] = np.ctypeslib.as_array(raw).view(dtype).reshape(shape)
        array.flags.writeable = write
        return array

    def create_stream(self, label: str) -> Stream:
        native = self._call(self._runtime.cudaStreamCreateWithFlags(self._runtime.cudaStreamNonBlocking))
        stream = Stream(int(native), label)
        self._streams[stream] = native
        return stream

    def create_event(self, label: str, *, timed: bool = False) -> Event:
        flags = self._runtime.cudaEventBlockingSync
        if not timed:
            flags |= self._runtime.cudaEventDisableTiming
        native = self._call(self._runtime.cudaEventCreateWithFlags(flags))
        event = Event(int(native), label)
        self._events[event] = native
        return event

    def record(self, event: Event, stream: Stream) -> None:
        self._call(self._runtime.cudaEventRecord(self._events[event], self._streams[stream]))

    def wait(self, stream: Stream, event: Event) -> None:
        self._call(self._runtime.cudaStreamWaitEvent(self._streams[stream], self._events[event], 0))

    def synchronize(self, target: Stream | Event) -> None:
        if isinstance(target, Stream):
            self._call(self._runtime.cudaStreamSynchronize(self._streams[target]))
        else:
            self._call(self._runtime.cudaEventSynchronize(self._events[target]))

    def done(self, event: Event) -> bool:
        result = self._runtime.cudaEventQuery(self._events[event])
        if result[0] == self._runtime.cudaError_t.cudaErrorNotReady:
            return False
        self._call(result)
        return True

    def elapsed(self, start: Event, end: Event) -> float:
        milliseconds = self._call(self._runtime.cudaEventElapsedTime(self._events[start], self._events[end]))
        return float(milliseconds) / 1e3

    def copy(self, destination: Buffer, source: Buffer, stream: Stream) -> None:
        direction(destination, source)
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDefault  # the addresses say which way
        self._call(
            self._runtime.cudaMemcpyAsync(destination.address, source.address, source.size, kind, self._streams[stream])
        )

    def fill(self, buffer: Buffer, value: int, stream: Stream) -> None:
        fill_work(buffer, value)
        self._call(self._runtime.cudaMemsetAsync(buffer.address, value, buffer.size, self._streams[stream]))

    def launch(self, call: KernelCall, stream: Stream) -> None:
        kernel = self._kernels.get(call.kernel, call.value)
        config = self._core.LaunchConfig(grid=call.grid, block=BLOCK)
        arguments = [np.uint64(one.address) if isinstance(one, Buffer) else np.int32(one) for one in call.arguments]
        try:
            self._core.launch(self._launcher(stream), config, kernel, *arguments)
        except Exception as error:  # the class of cuda.core's errors is not public
            raise DeviceFault(f"{self._name} did not take kernel {call.kernel.name}: {error}") from error

    def capture(self, stream: Stream, work: Callable[[], None], label: str) -> Graph:
        runtime, native = self._runtime, self._streams[stream]
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(runtime.cudaStreamBeginCapture(native, mode))
        try:
            work()
        except BaseException:
            runtime.cudaStreamEndCapture(native)  # its own complaint would hide the first
            raise
        ended = runtime.cudaStreamEndCapture(native)
        if ended[0].name.startswith("cudaErrorStreamCapture"):  # of this capture alone: the context is as it was
            raise CaptureRefused(f"{self._name} cannot capture {label}: {ended[0].name}")
        captured = self._call(ended)
        executable = self._call(runtime.cudaGraphInstantiate(captured, 0))
        self._call(runtime.cudaGraphDestroy(captured))
        graph = Graph(int(executable), label)
        self._graphs[graph] = executable
        return graph

    def launch_graph(self, graph: Graph, stream: Stream) -> None:
        self._call(self._runtime.cudaGraphLaunch(self._graphs[graph], self._streams[stream]))

    def close(self) -> None:
        runtime = self._runtime
        self._call(runtime.cudaDeviceSynchronize())
        for graph in self._graphs.values():
            self._call(runtime.cudaGraphExecDestroy(graph))
        for event in self._events.values():
            self._call(runtime.cudaEventDestroy(event))
        self._launchers.clear()
        for stream in self._streams.values():
            self._call(runtime.cudaStreamDestroy(stream))
        for allocation in self._memory:
            self._free(allocation)
        for held in (self._graphs, self._events, self._streams, self._memory):
            held.clear()

    def _free(self, allocation: Allocation) -> None:
        free = self._runtime.cudaFree if allocation.place is Place.DEVICE else self._runtime.cudaFreeHost
        self._call(free(allocation.address))

    def _launcher(self, stream: Stream) -> Any:
        """The stream as `cuda.core` knows it."""
        if stream not in self._launchers:
            self._launchers[stream] = self._core.Stream.from_handle(stream.handle)
        return self._launchers[stream]

    def _call(self, result: tuple[Any, ...]) -> Any:
        """What a call returned beside its status.

        Raises: OutOfMemory; DeviceFault: any other error, which most often is that of an earlier call.
        """
        status, *values = result
        if status == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            raise OutOfMemory(f"{self._name} has no room: {status.name}")
        if status != self._runtime.cudaError_t.cudaSuccess:
            raise DeviceFault(f"{self._name} reports {status.name} ({int(status)}); this process must end")
        return values[0] if len(values) == 1 else tuple(values)
