"""TensorRT-RTX: builds ahead of time for Turing to Blackwell, on any machine, with or without a card."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from trt_engines.builders.builder import BuildFailed, BuildRequest, BuildResult, Report
from trt_engines.builders.library import compile_graph, load
from trt_engines.cards import RTX_TARGETS, precisions, unsupported


class TensorRtRtx:
    """Engines by TensorRT-RTX; kernels are chosen on the card, when the engine is first run there."""

    name = "tensorrt-rtx"
    install = "install it with: pip install tensorrt-rtx"
    ahead_of_time = True
    reproducible = "numbers in the names that the builder gives to tensors of its own"

    def version(self) -> str:
        """Of the library. Raises: BuilderMissing."""
        return str(self._module().__version__)

    def refuses(self, request: BuildRequest) -> str | None:
        """Why this library cannot build it; None: nothing known speaks against it."""
        for sm in request.compute_capabilities:
            if reason := unsupported(sm):
                return reason
            if sm not in RTX_TARGETS:
                return (
                    f"TensorRT-RTX has no SM{sm} target (it has {', '.join(f'SM{one}' for one in sorted(RTX_TARGETS))})"
                    "; build with --library tensorrt on a machine that holds the card"
                )
            if request.precision not in precisions(sm):
                return (
                    f"SM{sm} cannot compute in {request.precision}, only in {', '.join(sorted(precisions(sm)))}; take "
                    "the model's bf16 or fp16 file, or leave the network to the PyTorch fallback"
                )
        if request.refittable and not _driver():
            return (
                "TensorRT-RTX compiles refittable engines only where an NVIDIA driver is installed, and here is "
                "none; build on the rig, or without --refittable"
            )
        return None

    def build(self, request: BuildRequest, plan: Path, progress: Report) -> BuildResult:
        """Compile. Raises: BuildFailed, BuildCancelled, BuilderMissing, StoreFull, OSError."""
        trt = self._module()
        if reason := self.refuses(request):
            raise BuildFailed(f"{request.graph.name}: {reason}")

        def target(config: Any) -> None:
            # Else the library may allocate in a call, and such a call is not captured into a graph. Streamed weights
            # need that: the two flags together are refused.
            if not request.weight_streaming:
                config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
            config.num_compute_capabilities = len(request.compute_capabilities)
            for index, sm in enumerate(sorted(request.compute_capabilities)):
                if not config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), index):
                    raise BuildFailed(f"{request.graph.name}: TensorRT-RTX {trt.__version__} refused the target SM{sm}")

        return compile_graph(trt, request, plan, progress, target)

    def _module(self) -> Any:
        return load("tensorrt_rtx", self.install)


def _driver() -> bool:
    """Whether this machine has NVIDIA's driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
