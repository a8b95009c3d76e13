"""A CUDA device's whole life, every call checked against the installed cuda-bindings and cuda-core."""

from __future__ import annotations

import ast
import ctypes
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda.core
import numpy as np
import pytest
from cuda.bindings import runtime as cuda_runtime
from cuda.core._kernel_arg_handler import ParamHolder

import trt_engines.devices.cuda
from trt_engines.devices.cuda import CudaDevice
from trt_engines.devices.device import Device
from trt_engines.devices.errors import CaptureRefused, DeviceFault, DeviceUnavailable
from trt_engines.devices.memory import Buffer, Place
from trt_engines.errors import OutOfMemory
from trt_engines.kernels import catalogue
from trt_engines.kernels.kernel import BLOCK, HALF

SOURCE = Path(trt_engines.devices.cuda.__file__)
SUCCESS = cuda_runtime.cudaError_t.cudaSuccess
BYTE = np.dtype(np.uint8)


class Runtime:
    """`cuda.bindings.runtime`, whose functions check their arguments and do nothing; the rest is the real module's.

    A function returns its status and as many values as its documentation lists.
    """

    def __init__(self) -> None:
        self.host = ctypes.create_string_buffer(4096)
        self.calls: list[str] = []
        self.failing: dict[str, Any] = {}
        properties = cuda_runtime.cudaDeviceProp()
        properties.name, properties.major, properties.minor = b"a card".ljust(256, b"\0"), 8, 9
        properties.totalGlobalMem, properties.multiProcessorCount = 24 << 30, 128
        self._answers: dict[str, tuple[Any, ...]] = {
            "cudaGetDeviceCount": (1,),
            "cudaGetDeviceProperties": (properties,),
            "cudaHostAlloc": (ctypes.addressof(self.host),),
            "cudaMemGetInfo": (5, 7),
            "cudaStreamCreateWithFlags": (cuda_runtime.cudaStream_t(11),),
            "cudaEventCreateWithFlags": (cuda_runtime.cudaEvent_t(12),),
            "cudaStreamEndCapture": (cuda_runtime.cudaGraph_t(13),),
            "cudaEventElapsedTime": (2.5,),
            "cudaGraphInstantiate": (cuda_runtime.cudaGraphExec_t(14),),
        }

    def __getattr__(self, name: str) -> Any:
        real = getattr(cuda_runtime, name)
        if not inspect.isroutine(real):
            return real

        def call(*args: Any) -> tuple[Any, ...]:
            bound = inspect.signature(real).bind(*args)
            for parameter, value in bound.arguments.items():
                _check(real, parameter, value)
            self.calls.append(name)
            returned = re.findall(r"^(\w+) : ", real.__doc__.partition("Returns\n-------\n")[2], re.MULTILINE)
            values = self._answers.get(name, tuple(0x7F00_0000_0000 for _ in returned))
            assert len(values) == len(returned), f"{name} returns {returned}"
            return self.failing.get(name, SUCCESS), *values

        return call


def _check(function: Any, parameter: str, value: Any) -> None:
    """Whether the binding converts a value to its C type: the documentation's, as in `stream : CUstream`."""
    documented = re.search(rf"^{parameter} : (.+)$", function.__doc__, re.MULTILINE)
    assert documented, f"{function.__name__} documents no {parameter}"
    kind = documented[1]
    if "cudaStream_t" in kind:
        assert isinstance(value, cuda_runtime.cudaStream_t)
    elif "cudaEvent_t" in kind or "cudaGraph" in kind:
        assert type(value).__name__ in kind
    elif ".cuda" in kind:
        assert isinstance(value, getattr(cuda_runtime, kind.split(".")[-1].rstrip("`")))
    else:
        assert isinstance(value, int), f"{function.__name__}: {parameter} is {kind}, not {value!r}"


class Core:
    """`cuda.core` without a card: what only a card can do is checked and noted."""

    LaunchConfig = cuda.core.LaunchConfig
    ProgramOptions = cuda.core.ProgramOptions
    Program = cuda.core.Program
    Stream = cuda.core.Stream

    def __init__(self) -> None:
        self.launched: list[tuple[Any, Any, list[int]]] = []

    def Device(self, *args: Any) -> Any:  # noqa: N802
        inspect.signature(cuda.core.Device).bind(*args)
        return _Current()

    def launch(self, *args: Any) -> None:
        bound = inspect.signature(cuda.core.launch).bind(*args).arguments
        assert isinstance(bound["stream"], cuda.core.Stream)
        assert isinstance(bound["config"], cuda.core.LaunchConfig)
        assert isinstance(bound["kernel"], cuda.core.Kernel)
        packed = ParamHolder(bound["kernel_args"])
        pointers = (ctypes.c_void_p * len(bound["kernel_args"])).from_address(packed.ptr)
        sizes = [argument.itemsize for argument in bound["kernel_args"]]
        values = [
            int.from_bytes(ctypes.string_at(pointer, size), "little")
            for pointer, size in zip(pointers, sizes, strict=True)
        ]
        self.launched.append((bound["config"], bound["kernel"], values))


class _Current:
    def set_current(self, *args: Any) -> None:
        inspect.signature(cuda.core.Device.set_current).bind(self, *args)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def device(runtime: Runtime, core: Core, stand_in: Callable[[str, Any], None]) -> CudaDevice:
    stand_in("cuda.bindings.runtime", runtime)
    stand_in("cuda.core", core)
    return CudaDevice(0)


def live(device: CudaDevice) -> None:
    """Use every call of the interface."""
    block, host = device.allocate(64), device.allocate(64, Place.HOST)
    device.view(host, BYTE, (64,), write=True)[:] = 1
    stream, event = device.create_stream("work"), device.create_event("done")
    device.copy(block, host, stream)
    device.fill(block.part(0, 8), 255, stream)
    device.record(event, stream)
    device.wait(stream, event)
    assert device.done(event)
    began, ended = (device.create_event(label, timed=True) for label in ("began", "ended"))
    device.record(began, stream)
    device.record(ended, stream)
    assert device.elapsed(began, ended) == 0.0025
    graph = device.capture(stream, lambda: device.copy(host, block, stream), "copy")
    device.launch_graph(graph, stream)
    device.synchronize(stream)
    device.synchronize(event)
    for resource in (graph, block, host, event, began, ended, stream):
        device.free(resource)
    stream = device.create_stream("left")
    device.create_event("left")
    device.allocate(64)
    device.capture(stream, lambda: None, "nothing")
    assert device.memory_info().free == 5
    device.close()


def test_a_device_calls_only_what_cuda_bindings_declare(device: CudaDevice) -> None:
    live(device)

    assert device.properties.sm == 89
    assert device.properties.name == "a card"


def test_no_call_of_the_source_is_left_out_of_this_check(device: CudaDevice, runtime: Runtime) -> None:
    live(device)

    named = {node.attr for node in ast.walk(ast.parse(SOURCE.read_text())) if isinstance(node, ast.Attribute)}
    functions = {
        name for name in named if name.startswith("cuda") and inspect.isroutine(getattr(cuda_runtime, name, None))
    }
    assert functions == set(runtime.calls)


def test_everything_that_is_made_is_given_back_once(device: CudaDevice, runtime: Runtime) -> None:
    live(device)

    calls = {name: runtime.calls.count(name) for name in runtime.calls}
    assert calls["cudaMalloc"] == calls["cudaFree"] == 2
    assert calls["cudaHostAlloc"] == calls["cudaFreeHost"] == 1
    assert calls["cudaGraphInstantiate"] == calls["cudaGraphExecDestroy"] == calls["cudaGraphDestroy"] == 2
    assert calls["cudaStreamCreateWithFlags"] == calls["cudaStreamDestroy"] == 2
    assert calls["cudaEventCreateWithFlags"] == calls["cudaEventDestroy"] == 4


def test_it_has_every_call_of_the_interface_with_the_same_parameters() -> None:
    for name, declared in inspect.getmembers(Device, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(CudaDevice, name)) == inspect.signature(declared), name


def test_a_kernel_is_given_addresses_and_int32_in_the_order_of_its_parameters(
    device: CudaDevice, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = cuda.core.Kernel.__new__(cuda.core.Kernel)
    monkeypatch.setattr(device._kernels, "get", lambda *key: kernel)
    pixels, flags, decoded = (device.allocate(size) for size in (6 * 600, 8, 12 * 600))
    call = catalogue.to_pixels(HALF, pixels=pixels, not_finite=flags, decoded=decoded, height=2, width=300)

    device.launch(call, device.create_stream("work"))

    ((config, launched, values),) = core.launched
    assert launched is kernel
    assert (config.grid, config.block) == ((3, 2, 1), (BLOCK, 1, 1))
    assert values == [pixels.address, flags.address, decoded.address, 2, 300]


def test_a_compiled_file_is_asked_for_its_kernels_as_cuda_core_declares() -> None:
    inspect.signature(cuda.core.ObjectCode.get_kernel).bind(object(), "row_scale")


def test_the_host_sees_pinned_memory_itself(device: CudaDevice, runtime: Runtime) -> None:
    buffer = device.allocate(8, Place.HOST)

    device.view(buffer, np.dtype(np.int32), (2,), write=True)[:] = (1, 2)

    assert runtime.host.raw[:8] == bytes([1, 0, 0, 0, 2, 0, 0, 0])


def test_no_room_is_out_of_memory_and_anything_else_ends_the_process(device: CudaDevice, runtime: Runtime) -> None:
    errors = cuda_runtime.cudaError_t
    runtime.failing["cudaMalloc"] = errors.cudaErrorMemoryAllocation
    runtime.failing["cudaStreamSynchronize"] = errors.cudaErrorIllegalAddress

    with pytest.raises(OutOfMemory, match="CUDA device 0 has no room"):
        device.allocate(1)
    with pytest.raises(DeviceFault, match=r"cudaErrorIllegalAddress \(700\); this process must end"):
        device.synchronize(device.create_stream("work"))


def test_an_event_that_is_not_reached_is_not_an_error(device: CudaDevice, runtime: Runtime) -> None:
    runtime.failing["cudaEventQuery"] = cuda_runtime.cudaError_t.cudaErrorNotReady

    assert not device.done(device.create_event("done"))


def test_a_capture_that_fails_is_ended_and_the_failure_is_told(device: CudaDevice, runtime: Runtime) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        device.capture(device.create_stream("work"), fail, "graph")

    assert runtime.calls[-1] == "cudaStreamEndCapture"


def test_work_that_cannot_be_captured_ends_no_process(device: CudaDevice, runtime: Runtime) -> None:
    runtime.failing["cudaStreamEndCapture"] = cuda_runtime.cudaError_t.cudaErrorStreamCaptureInvalidated

    with pytest.raises(CaptureRefused, match="cannot capture graph: cudaErrorStreamCaptureInvalidated"):
        device.capture(device.create_stream("work"), lambda: None, "graph")

    assert "cudaGraphInstantiate" not in runtime.calls


def test_a_machine_without_a_driver_says_so() -> None:
    status, _ = cuda_runtime.cudaGetDeviceCount()
    if status == SUCCESS:
        pytest.skip("this machine has a driver")

    with pytest.raises(DeviceUnavailable, match=f"finds no card .{status.name}.; is the NVIDIA driver installed"):
        CudaDevice()


def test_a_card_that_is_not_there_is_named(device: CudaDevice) -> None:
    with pytest.raises(DeviceUnavailable, match="no CUDA device 1: this process sees 1"):
        CudaDevice(1)


def test_without_cuda_python_it_says_what_to_install(stand_in: Callable[[str, Any], None]) -> None:
    stand_in("cuda.bindings.runtime", None)

    with pytest.raises(DeviceUnavailable, match=r"horde-bridge\.sh installs it"):
        CudaDevice()


def test_memory_that_was_freed_is_not_freed_again(device: CudaDevice) -> None:
    buffer: Buffer = device.allocate(8)
    device.free(buffer)

    with pytest.raises(KeyError):
        device.free(buffer)
