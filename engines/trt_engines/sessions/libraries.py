"""What TensorRT and TensorRT-RTX do not have in common, when an engine runs."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

from trt_engines.errors import EngineRefused

_REMEDIES = {
    "VERSION_MISMATCH": "it was built with another version: rebuild it",
    "UNSUPPORTED_CC": "it was not built for this card: rebuild it for its compute capability",
    "OLD_CUDA_DRIVER": "the driver is too old for it: update the NVIDIA driver",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it: update the CUDA packages",
    "INSUFFICIENT_GPU_MEMORY": "the card has too little memory for it: build a smaller bucket",
    "MALFORMED_ENGINE": "it is damaged, or no engine of this library: rebuild it",
    "CUDA_ERROR": "CUDA does not work here: see trt-worker doctor",
}


class Library(Protocol):
    """One of the two libraries."""

    name: str
    trt: Any  # its module

    def invalid(self, runtime: Any, plan: bytes | memoryview) -> str | None:
        """Why the plan cannot be loaded here, from its header alone; None: nothing speaks against it."""

    def create_context(self, engine: Any) -> Any:
        """A context whose activation memory is ours to give. None: the library could not make one."""

    def capturable(self, context: Any, stream: int) -> bool:
        """Whether a call on that stream may be captured."""


class TensorRt:
    """TensorRT: plans are for the very version and architecture; it says so only when it loads them."""

    name = "tensorrt"

    def __init__(self) -> None:
        self.trt = _load("tensorrt")

    def invalid(self, runtime: Any, plan: bytes | memoryview) -> str | None:
        return None

    def create_context(self, engine: Any) -> Any:
        return engine.create_execution_context(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)

    def capturable(self, context: Any, stream: int) -> bool:
        return True


class TensorRtRtx:
    """TensorRT-RTX: kernels are compiled on the rig. `EAGER`: all at once, so that the first picture of a seed is the
    same as a later one; graphs are ours, so its own are off.

    Args:
        cache: what `runtime_cache` gave in an earlier process; kernels in it are not compiled again.
    """

    name = "tensorrt-rtx"

    def __init__(self, cache: bytes = b"") -> None:
        self.trt = _load("tensorrt_rtx")
        self._saved = cache
        self._cache: Any = None

    def invalid(self, runtime: Any, plan: bytes | memoryview) -> str | None:
        validity, found = runtime.get_engine_validity(plan)
        if validity != self.trt.EngineValidity.INVALID:
            return None
        members = self.trt.EngineInvalidityDiagnostics.__members__
        reasons = [_REMEDIES.get(name, name) for name, member in members.items() if int(found) & int(member)]
        return "; ".join(reasons) or "the library does not say why"

    def create_context(self, engine: Any) -> Any:
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.dynamic_shapes_kernel_specialization_strategy = self.trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.cuda_graph_strategy = self.trt.CudaGraphStrategy.DISABLED
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._saved:
                self._cache.deserialize(self._saved)  # False: it is stale, and filled anew
        config.set_runtime_cache(self._cache)
        return engine.create_execution_context(config)

    def capturable(self, context: Any, stream: int) -> bool:
        return bool(context.is_stream_capturable(stream))

    def runtime_cache(self) -> bytes:
        """The kernels compiled so far, for a later process on the same card; empty: there are none."""
        return bytes(self._cache.serialize()) if self._cache is not None else b""


def _load(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise EngineRefused(f"{module} does not load ({error}): pip install 'trt-worker[gpu]'") from error
