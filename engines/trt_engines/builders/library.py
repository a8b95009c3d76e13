"""What TensorRT and TensorRT-RTX have in common: the same calls on either module."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from trt_engines.builders.builder import (
    PARSE,
    BuildCancelled,
    BuilderMissing,
    BuildFailed,
    BuildRequest,
    BuildResult,
    Progress,
    Report,
)
from trt_engines.builders.device_memory import tells_memory, told_memory
from trt_engines.store.files import whole_file


def load(module: str, install: str) -> Any:
    """The library, imported when it is first needed.

    Raises: BuilderMissing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise BuilderMissing(f"engines are built with {module}, which does not load ({exc}); {install}") from exc


def compile_graph(
    trt: Any, request: BuildRequest, plan: Path, progress: Report, target: Callable[[Any], None]
) -> BuildResult:
    """Parse and build with either library.

    Memory, over the bytes of the weights: the parser maps their files and copies nothing (1.0, pages that the system
    can take back), the builder makes copies of its own (1.2, and for a while 2.0 of those of convolutions, which it
    lays out anew). The plan is written as it is made, 64 MiB at a time: as one object in memory, and copied into one of
    Python's, it would be 1.0 to 2.0 more. Seen with TensorRT-RTX 1.7.1 on small stacks of products and convolutions.

    Args:
        trt: the library's module.
        target: says on a builder configuration what cards the engine is for.
    Raises: BuildFailed, BuildCancelled, StoreFull, OSError.
    """
    logger = _logger(trt)
    started = time.monotonic()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not progress(Progress(phase=PARSE, parent=None, done=0, steps=1)):
        raise BuildCancelled(f"the build of {request.graph.name} was stopped")
    if not parser.parse_from_file(str(request.graph)):  # by path: external data resolve relative to the graph
        raise BuildFailed(_parse_failure(request, parser, logger.lines))
    parsed = time.monotonic()
    if not progress(Progress(phase=PARSE, parent=None, done=1, steps=1)):
        raise BuildCancelled(f"the build of {request.graph.name} was stopped")
    config = builder.create_builder_config()
    _configure(trt, config, request)
    target(config)
    _add_profiles(builder, network, config, request)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    with whole_file(plan, f"the engine of {request.graph.name}") as file:
        writer = _writer(trt, file)
        built = builder.build_serialized_network_to_stream(network, config, writer)
        if monitor.cancelled:
            raise BuildCancelled(f"the build of {request.graph.name} was stopped")
        if writer.problem is not None:
            raise writer.problem
        if not built:
            raise BuildFailed(_build_failure(request, logger.lines))
    return BuildResult(
        log=tuple(logger.lines),
        parse_seconds=parsed - started,
        build_seconds=time.monotonic() - parsed,
        memory=told_memory(logger.memory, len(request.profiles)),
    )


def _configure(trt: Any, config: Any, request: BuildRequest) -> None:
    config.builder_optimization_level = request.optimization_level
    flags = {
        "REFIT": request.refittable,
        "WEIGHT_STREAMING": request.weight_streaming,
        "TF32": request.tf32,  # on unless it is cleared
        "DISTRIBUTIVE_INDEPENDENCE": request.batch_independent,
    }
    for name, wanted in flags.items():
        flag = getattr(trt.BuilderFlag, name)
        if wanted:
            config.set_flag(flag)
        else:
            config.clear_flag(flag)
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)


def _add_profiles(builder: Any, network: Any, config: Any, request: BuildRequest) -> None:
    tensors = {network.get_input(index).name: network.get_input(index) for index in range(network.num_inputs)}
    dynamic = {name for name, tensor in tensors.items() if -1 in tuple(tensor.shape)}
    if dynamic and not request.profiles:
        raise BuildFailed(
            f"{request.graph.name}: {', '.join(sorted(dynamic))} have dynamic axes, and the request has no profile"
        )
    for number, ranges in enumerate(request.profiles, 1):
        where = f"{request.graph.name}: profile {number}"
        if missing := dynamic - {one.name for one in ranges}:
            raise BuildFailed(f"{where} gives no shapes for {', '.join(sorted(missing))}")
        profile = builder.create_optimization_profile()
        for one in ranges:
            if one.name not in tensors:
                raise BuildFailed(f"{where} is for an input {one.name!r}, and the graph has {', '.join(tensors)}")
            declared = tuple(tensors[one.name].shape)
            if len(one.min) != len(declared):
                raise BuildFailed(
                    f"{where} gives {one.name!r} {len(one.min)} axes, and the graph gives it {len(declared)}"
                )
            profile.set_shape(one.name, one.min, one.opt, one.max)
        if config.add_optimization_profile(profile) < 0:
            raise BuildFailed(f"{where} does not fit the graph's fixed axes: {ranges}")


def _parse_failure(request: BuildRequest, parser: Any, log: list[str]) -> str:
    """One sentence with node and operator from the parser's first error."""
    if not parser.num_errors:
        detail = log[-1] if log else "the library gave no reason"
        return f"{request.graph.name} could not be parsed: {_one_line(detail)}"
    error = parser.get_error(0)
    where = f"node {error.node_name()!r} ({error.node_operator()})" if error.node_operator() else "the graph"
    more = f" ({parser.num_errors - 1} more errors)" if parser.num_errors > 1 else ""
    return (
        f"{request.graph.name}: {where} cannot be compiled: {_one_line(error.desc())}{more}. "
        "Export the graph again; an operator that the library lacks must be folded or replaced there."
    )


def _build_failure(request: BuildRequest, log: list[str]) -> str:
    errors = [line for line in log if line.startswith(("ERROR", "INTERNAL_ERROR"))]
    detail = _one_line(errors[0]) if errors else "the library gave no reason"
    targets = ", ".join(f"SM{sm}" for sm in request.compute_capabilities)
    return f"{request.graph.name} could not be compiled for {targets}: {detail}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 500 else line[:497] + "..."


def _logger(trt: Any) -> Any:
    class Lines(trt.ILogger):  # type: ignore[misc, unused-ignore]  # the bindings are not typed
        """Keeps warnings, errors, and what is said of memory, instead of printing them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.memory: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (severity.INTERNAL_ERROR, severity.ERROR, severity.WARNING):
                self.lines.append(f"{severity.name}: {msg}")
            elif tells_memory(msg):
                self.memory.append(msg)

    return Lines()


def _writer(trt: Any, file: IO[bytes]) -> Any:
    class Writer(trt.IStreamWriter):  # type: ignore[misc, unused-ignore]  # the bindings are not typed
        """Writes a plan to a file, piece by piece; an exception would not find its way through the library."""

        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.problem: OSError | None = None

        def write(self, data: bytes) -> int:
            if self.problem is None:
                try:
                    return file.write(data)
                except OSError as exc:
                    self.problem = exc
            return 0  # fewer than there were: the library gives up

    return Writer()


def _monitor(trt: Any, report: Report) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, unused-ignore]  # the bindings are not typed
        """Passes progress on; the library calls it from threads of its own."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, tuple[str | None, int]] = {}
            self.cancelled = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = (parent_phase, num_steps)
            self._report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._report(phase_name, step + 1)
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            parent, steps = self.phases.pop(phase_name, (None, 0))
            if steps and not self.cancelled:
                self.cancelled = not report(Progress(phase=phase_name, parent=parent, done=steps, steps=steps))

        def _report(self, phase: str, done: int) -> None:
            if self.cancelled:
                return
            parent, steps = self.phases.get(phase, (None, done))
            self.cancelled = not report(Progress(phase=phase, parent=parent, done=min(done, steps), steps=steps))

    return Monitor()
