"""TensorRT: builds on the very card that runs the engine, the only way to Hopper and server Blackwell.

What only a card can prove: that a build succeeds, its time, and that the plan is the same for the same request (kernels
are chosen by timing them, so it is not expected to be).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trt_engines.builders.builder import BuildFailed, BuildRequest, BuildResult, Report
from trt_engines.builders.library import compile_graph, load
from trt_engines.cards import precisions, unsupported


class TensorRt:
    """Engines by TensorRT, for the card of this machine."""

    name = "tensorrt"
    install = "install it with: pip install tensorrt-cu13 --extra-index-url https://pypi.nvidia.com"
    ahead_of_time = False
    reproducible = "the plan: kernels are chosen by timing them on the card"

    def version(self) -> str:
        """Of the library. Raises: BuilderMissing."""
        return str(self._module().__version__)

    def refuses(self, request: BuildRequest) -> str | None:
        """Why this library cannot build it; None: nothing known speaks against it."""
        if len(request.compute_capabilities) > 1:
            return "TensorRT builds for the card of this machine alone; name one compute capability"
        sm = request.compute_capabilities[0]
        if reason := unsupported(sm):
            return reason
        if request.precision not in precisions(sm):
            return (
                f"SM{sm} cannot compute in {request.precision}, only in {', '.join(sorted(precisions(sm)))}; "
                "choose another precision for this network or the PyTorch fallback"
            )
        return None

    def build(self, request: BuildRequest, plan: Path, progress: Report) -> BuildResult:
        """Compile. Raises: BuildFailed, BuildCancelled, BuilderMissing, StoreFull, OSError."""
        if reason := self.refuses(request):
            raise BuildFailed(f"{request.graph.name}: {reason}")
        # The card is the target: there is nothing to name. Preflight has compared it with the request.
        return compile_graph(self._module(), request, plan, progress, lambda config: None)

    def _module(self) -> Any:
        return load("tensorrt", self.install)
