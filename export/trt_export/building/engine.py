"""Build one engine: export, bind, compile, certify, publish."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from trt_engines.bucket import Bucket
from trt_engines.builders.builder import BuildRequest, Progress
from trt_engines.builders.preflight import DISK_PER_WEIGHT_BYTE, Machine, obstacles
from trt_engines.builders.tensorrt import TensorRt
from trt_engines.builders.tensorrt_rtx import TensorRtRtx
from trt_engines.store.identity import Identity, digest
from trt_engines.store.manifest import Certificate
from trt_engines.store.staging import Staging
from trt_engines.store.store import Store
from trt_export.architectures.architecture import ComponentSpec
from trt_export.architectures.registry import architecture
from trt_export.building.certificate import certify
from trt_export.building.order import Order
from trt_export.checkpoints.binding import BoundTensor, bind
from trt_export.checkpoints.keymap import KeyMap
from trt_export.checkpoints.safetensors_file import StoredTensor
from trt_export.child import Tell, run_phase
from trt_export.graphs.bound import BoundGraph, bind_graph, link_files
from trt_export.graphs.bound import digest as weights_digest
from trt_export.graphs.cache import GraphCache
from trt_export.graphs.exporter import export_graph, parameters

PLAN, GRAPH, SIDE = "engine.plan", "graph.onnx", "side.safetensors"

BUILDERS = {builder.name: builder for builder in (TensorRtRtx(), TensorRt())}

Report = Callable[[str, float], None]
"""Takes a phase and the share of it that is done."""


class CannotBuild(Exception):
    """A build that cannot work was not started; the message has every reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An engine that stands in the store."""

    digest: str
    size: int  # bytes
    fresh: bool  # built now, and not found there
    verdict: str
    phases: Mapping[str, float]  # seconds of each phase, of the build that made it
    peak_bytes: int
    graph_bytes: int
    written_bytes: int  # for this checkpoint, besides the engine


def build_engine(
    order: Order,
    tensors: Mapping[str, StoredTensor],
    tables: Sequence[KeyMap],
    store: Store,
    machine: Machine,
    report: Report,
    stop: threading.Event,
    *,
    library: str = "tensorrt-rtx",
    refittable: bool = False,
) -> Built:
    """Make sure that the engine of an order stands in the store; what is there already is not built again.

    A build that was stopped goes on after its last finished phase.

    Args:
        tensors: the checkpoint of the network.
        tables: layouts that the network is published in.

    Raises: CannotBuild, PhaseFailed, Stopped, WeightsMissing, StoreError, OSError.
    """
    cached, exported = _graph(order, GraphCache(store.root / "graphs"), report, stop)
    graph_bytes = cached.read_bytes()
    graph = onnx.load_model_from_string(graph_bytes)
    scratch_root = store.root / "scratch"
    scratch_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch_root) as scratch:
        folder = Path(scratch)
        began = time.monotonic()
        weights = bind(parameters(graph), tensors, tables, folder / SIDE)
        bound = bind_graph(graph, weights)
        link_files(bound, folder)
        onnx.save(bound.proto, folder / GRAPH)
        report("bind", 0.5)
        request = BuildRequest(
            graph=folder / GRAPH,
            precision="float8" if any(one.dtype == "F8_E4M3" for one in weights) else order.precision,
            profiles=order.profiles,
            compute_capabilities=order.compute_capabilities,
            refittable=refittable,
            batch_independent=len(order.profiles) == 1,  # TensorRT-RTX refuses it with several
        )
        builder = BUILDERS[library]
        if reasons := obstacles(builder, request, bound.weight_bytes, machine):
            raise CannotBuild(f"{order.label}: {'; '.join(reasons)}")
        identity = Identity(
            architecture=order.architecture,
            component=order.component.name,
            graph=hashlib.sha256(graph_bytes).hexdigest(),
            weights=weights_digest(sorted(weights, key=lambda one: one.name)),
            precision=request.precision,
            profiles=order.profiles,
            flags=request.flags,
            library=library,
            library_version=builder.version(),
            compute_capabilities=order.compute_capabilities,
        )
        bind_seconds = time.monotonic() - began
        report("bind", 1.0)
        # Written for this checkpoint; links and the graph in the cache are not counted.
        written = sum(file.stat().st_size for file in folder.iterdir() if not file.is_symlink())
        with store.building(identity, needed=int(bound.weight_bytes * DISK_PER_WEIGHT_BYTE)) as staging:
            fresh = staging.published is None
            if fresh:
                _finish(order, staging, request, weights, folder, bound, exported, bind_seconds, report, stop)
        found = store.get(digest(identity))
    manifest = found.manifest
    return Built(
        digest=manifest.digest,
        size=manifest.size,
        fresh=fresh,
        verdict=manifest.certificate.verdict,
        phases={phase.name: phase.seconds for phase in manifest.phases},
        peak_bytes=manifest.peak_bytes,
        graph_bytes=len(graph_bytes),
        written_bytes=written,
    )


def _finish(
    order: Order,
    staging: Staging,
    request: BuildRequest,
    weights: tuple[BoundTensor, ...],
    folder: Path,
    bound: BoundGraph,
    exported: tuple[float, int],
    bind_seconds: float,
    report: Report,
    stop: threading.Event,
) -> None:
    """The phases that no earlier build has finished, and publication."""
    staging.phase_done("export", seconds=exported[0], peak_bytes=exported[1])
    staging.write(GRAPH, bound.proto.SerializeToString())
    staging.phase_done("bind", (GRAPH,), seconds=bind_seconds)
    if staging.done("compile") is None:
        began = time.monotonic()
        to_compile = (staging.identity.library, request, staging.path(PLAN))
        compiled = run_phase(compile_plan, to_compile, lambda share: report("compile", share), stop)
        staging.phase_done(
            "compile",
            (PLAN,),
            seconds=time.monotonic() - began,
            peak_bytes=compiled.peak_bytes,
            log=compiled.result["log"],
            notes={"parse_seconds": compiled.result["parse_seconds"]},
        )
    report("compile", 1.0)
    began = time.monotonic()
    timestep = architecture(order.architecture).timesteps / 2
    place = (order.architecture, order.component.name, dict(order.component.config))
    arguments = (*place, folder / GRAPH, weights, order.buckets, timestep)
    certified = run_phase(certify_by_name, arguments, lambda share: report("certify", share), stop)
    certificate: Certificate = certified.result
    staging.phase_done("certify", seconds=time.monotonic() - began, peak_bytes=certified.peak_bytes)
    staging.publish(
        models=(order.model,),
        certificate=certificate,
        files=(PLAN, GRAPH),
        reproducible=""
        if staging.identity.library == "tensorrt-rtx"
        else f"{PLAN}: kernels are chosen by timing them on the card",
    )
    report("certify", 1.0)


def _graph(order: Order, cache: GraphCache, report: Report, stop: threading.Event) -> tuple[Path, tuple[float, int]]:
    """The weightless graph of an order, and what exporting it took: seconds and peak bytes (0: it was there)."""
    place = (order.architecture, order.component.name, dict(order.component.config))
    file = cache.path(f"{order.architecture}/{order.component.name}", order.component.config, order.precision)
    if file.exists():
        report("export", 1.0)
        return file, (0.0, 0)
    report("export", 0.0)
    began = time.monotonic()
    exported = run_phase(export_by_name, (*place, order.precision), lambda share: report("export", share), stop)
    cache.keep(file, exported.result)
    report("export", 1.0)
    return file, (time.monotonic() - began, exported.peak_bytes)


def export_by_name(family: str, component: str, config: Mapping[str, Any], precision: str, tell: Tell) -> bytes:
    """A phase: the graph of a network, by names that travel between processes."""
    del tell  # the exporter does not say how far it is
    graph: bytes = export_graph(architecture(family).component(component), precision, config).SerializeToString()
    return graph


def compile_plan(library: str, request: BuildRequest, plan: Path, tell: Tell) -> dict[str, Any]:
    """A phase: compile a bound graph and write the plan."""
    top: dict[str, float] = {}

    def progress(one: Progress) -> bool:
        if one.parent is None and one.steps:
            top[one.phase] = one.done / one.steps
            tell(min(top.values()))
        return True

    result = BUILDERS[library].build(request, progress)
    plan.write_bytes(result.plan)
    return {"log": result.log, "parse_seconds": result.parse_seconds}


def certify_by_name(
    family: str,
    component: str,
    config: Mapping[str, Any],
    graph: Path,
    weights: Sequence[BoundTensor],
    buckets: Sequence[Bucket],
    timestep: float,
    tell: Tell,
) -> Certificate:
    """A phase: compare a bound graph with PyTorch."""
    spec: ComponentSpec = architecture(family).component(component).configured(config)
    return certify(spec, graph, weights, buckets, timestep, tell)
