"""What TensorRT and TensorRT-RTX do not have in common, when an engine runs."""

from __future__ import annotations

import hashlib
import sys
from importlib import import_module
from typing import Any, Protocol

from trt_engines.errors import EngineRefused

TOO_LARGE = "the card has too little memory for it: build a smaller bucket"

INSTALL = {
    "tensorrt-rtx": "./horde-bridge.sh installs it; remove .venv to have that done anew",
    "tensorrt": f"{sys.executable} -m pip install tensorrt-cu13 --extra-index-url https://pypi.nvidia.com",
}
"""How an operator gets a library: NVIDIA keeps one of them in an index of its own."""

_REMEDIES = {
    "VERSION_MISMATCH": "it was built with another version: rebuild it",
    "UNSUPPORTED_CC": "it was not built for this card: rebuild it for its compute capability",
    "OLD_CUDA_DRIVER": "the driver is too old for it: update the NVIDIA driver",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it: update the CUDA packages",
    "INSUFFICIENT_GPU_MEMORY": TOO_LARGE,
    "MALFORMED_ENGINE": "it is damaged, or no engine of this library: rebuild it",
    "CUDA_ERROR": "CUDA does not work here: see trt-worker doctor",
}


class Kernels(Protocol):
    """Where kernels that were compiled on the card are kept between processes."""

    def read(self) -> bytes:
        """What was kept last; empty: nothing that can be used."""

    def write(self, kernels: bytes) -> None:
        """Keep these."""


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

    def keep_kernels(self) -> None:
        """Keep what was compiled on the card so far for later processes."""


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

    def keep_kernels(self) -> None:
        """Its kernels are in the plan."""


class TensorRtRtx:
    """TensorRT-RTX: kernels are compiled on the rig. `EAGER`: all at once, so that the first picture of a seed is the
    same as a later one; graphs are ours, so its own are off.

    Args:
        kernels: those of one engine on this card, which are not compiled again; None: they are not kept.
    """

    name = "tensorrt-rtx"

    def __init__(self, kernels: Kernels | None = None) -> None:
        self.trt = _load("tensorrt_rtx")
        self._kernels = kernels
        self._kept = b""  # hash of what was read or written last
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
            saved = self._kernels.read() if self._kernels is not None else b""
            if saved and self._cache.deserialize(saved):  # False: it is stale, and filled anew
                self._kept = hashlib.sha256(saved).digest()
        config.set_runtime_cache(self._cache)
        return engine.create_execution_context(config)

    def capturable(self, context: Any, stream: int) -> bool:
        return bool(context.is_stream_capturable(stream))

    def keep_kernels(self) -> None:
        if self._kernels is None or self._cache is None:
            return
        serialized = self._cache.serialize()
        if serialized is None:  # the library could not: the next process compiles them again
            return
        compiled = bytes(serialized)
        digest = hashlib.sha256(compiled).digest()
        if digest != self._kept:
            self._kernels.write(compiled)
            self._kept = digest


def _load(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise EngineRefused(f"{module} does not load ({error}): {INSTALL[module.replace('_', '-')]}") from error
