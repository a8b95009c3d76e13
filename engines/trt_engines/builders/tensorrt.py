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
from trt_engines.store.files import whole_file


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
            return "TensorRT builds for the card of this machine alone; name one --gpu"
        sm = request.compute_capabilities[0]
        if reason := unsupported(sm):
            return reason
        if request.precision not in precisions(sm):
            return (
                f"SM{sm} cannot compute in {request.precision}, only in {', '.join(sorted(precisions(sm)))}; take "
                "the model's bf16 or fp16 file, or leave the network to the PyTorch fallback"
            )
        return None

    def build(self, request: BuildRequest, plan: Path, progress: Report) -> BuildResult:
        """Compile. Raises: BuildFailed, BuildCancelled, BuilderMissing, StoreFull, OSError."""
        if reason := self.refuses(request):
            raise BuildFailed(f"{request.graph.name}: {reason}")
        configs: list[Any] = []

        def prepare(config: Any) -> None:
            # The card is the target: there is nothing to name. Preflight has compared it with the request.
            configs.append(config)
            if request.timing_cache is not None:
                saved = request.timing_cache.read_bytes() if request.timing_cache.exists() else b""
                # What another card or version measured is refused, and measured anew.
                if not config.set_timing_cache(config.create_timing_cache(saved), False):
                    config.set_timing_cache(config.create_timing_cache(b""), False)

        result = compile_graph(self._module(), request, plan, progress, prepare)
        if request.timing_cache is not None:
            request.timing_cache.parent.mkdir(parents=True, exist_ok=True)
            measured = bytes(configs[0].get_timing_cache().serialize())
            with whole_file(request.timing_cache, "how fast kernels are on this card") as file:
                file.write(measured)
        return result

    def _module(self) -> Any:
        return load("tensorrt", self.install)
