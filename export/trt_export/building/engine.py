"""Build one engine: export, bind, parse, build, certify, publish."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import onnx

from trt_engines.architectures.registry import architecture
from trt_engines.bound_weights import BoundTensor
from trt_engines.builders.builder import BuildRequest, BuildResult
from trt_engines.builders.preflight import Machine, float32_product, obstacles
from trt_engines.store.identity import Identity, digest
from trt_engines.store.locks import hold
from trt_engines.store.manifest import GRAPH, PLAN, Certificate, DeviceMemory
from trt_engines.store.staging import Staging
from trt_engines.store.store import Store
from trt_export.building.certificates import CertificateCache
from trt_export.building.compiling import BUILDERS, compile_plan
from trt_export.building.exported import ExportedGraph, exported_graph
from trt_export.building.obstacles import compute_precision
from trt_export.building.order import Order
from trt_export.building.phases import certify_by_name
from trt_export.checkpoints.binding import bind
from trt_export.checkpoints.keymap import KeyMap
from trt_export.checkpoints.safetensors_file import StoredTensor
from trt_export.child import Tell, run_phase
from trt_export.graphs.bound import BoundGraph, bind_graph, link_files
from trt_export.graphs.cache import GraphCache
from trt_export.graphs.exporter import parameters

SIDE = "side.safetensors"


class CannotBuild(Exception):
    """A build that cannot work was not started; the message has every reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An engine that stands in the store."""

    digest: str
    size: int  # bytes
    fresh: bool  # built now, and not found there
    certificate: Certificate
    phases: Mapping[str, float]  # seconds of each phase, of the build that made it
    peak_bytes: int
    graph_bytes: int
    written_bytes: int  # for this checkpoint, besides the engine


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    """A graph that was bound to a checkpoint."""

    folder: Path  # with the graph and links to the files of its weights
    graph: BoundGraph
    weights: tuple[BoundTensor, ...]
    request: BuildRequest
    identity: Identity
    seconds: float


def build_engine(
    order: Order,
    tensors: Mapping[str, StoredTensor],
    tables: Sequence[KeyMap],
    store: Store,
    machine: Machine,
    report: Tell,
    stop: threading.Event,
) -> Built:
    """Make sure that the engine of an order stands in the store; what is there already is not built again.

    A build that was stopped goes on after its last finished phase.

    Args:
        tensors: the checkpoint of the network.
        tables: layouts that the network is published in.

    Raises: CannotBuild, PhaseFailed, Stopped, WeightsMissing, StoreError, OSError.
    """

    def waiting(holder: int | None) -> None:
        report(f"waiting for process {holder or 'unknown'}", 0.0)

    report("export", 0.0)
    cache = GraphCache(store.root / "graphs")
    graph = exported_graph(
        cache, order.architecture, order.module, order.precision, lambda _, share: report("export", share), stop
    )
    with store.scratch() as folder:
        bound = _bind(order, graph, tensors, tables, folder, report)
        reasons = obstacles(
            BUILDERS[order.library],
            bound.request,
            order.needs,
            machine,
            float32_product(bound.request.graph) if 75 in order.compute_capabilities else None,
        )
        if reasons:
            raise CannotBuild("; ".join(reasons))
        # Written for this checkpoint; links and the graph in the cache are not counted.
        written = sum(file.stat().st_size for file in folder.iterdir() if not file.is_symlink())
        needed = order.needs.disk_bytes
        with store.building(bound.identity, needed=needed, on_wait=waiting, stop=stop) as staging:
            fresh = staging.published is None
            if fresh:
                request = replace(bound.request, timing_cache=store.timing_cache(order.compute_capabilities[0]))
                _finish(order, staging, graph, replace(bound, request=request), store, report, stop)
        manifest = store.get(digest(bound.identity)).manifest
    return Built(
        digest=manifest.digest,
        size=manifest.size,
        fresh=fresh,
        certificate=manifest.certificate,
        phases={phase.name: phase.seconds for phase in manifest.phases},
        peak_bytes=manifest.peak_bytes,
        graph_bytes=len(graph.data),
        written_bytes=written,
    )


def _bind(
    order: Order,
    exported: ExportedGraph,
    tensors: Mapping[str, StoredTensor],
    tables: Sequence[KeyMap],
    folder: Path,
    report: Tell,
) -> _Bound:
    report("bind", 0.0)
    began = time.monotonic()
    graph = onnx.load_model_from_string(exported.data)
    weights = bind(parameters(graph), tensors, tables, folder / SIDE)
    bound = bind_graph(graph, weights)
    link_files(bound, folder)
    onnx.save(bound.proto, folder / GRAPH)
    request = order.request(folder / GRAPH, compute_precision(order, frozenset(one.dtype for one in weights)))
    identity = Identity(
        architecture=order.architecture,
        component=order.module.name,
        graph=hashlib.sha256(exported.data).hexdigest(),
        weights=bound.weights,
        precision=request.precision,
        profiles=order.profiles,
        flags=request.flags,
        library=order.library,
        library_version=BUILDERS[order.library].version(),
        compute_capabilities=order.compute_capabilities,
    )
    return _Bound(
        folder=folder,
        graph=bound,
        weights=weights,
        request=request,
        identity=identity,
        seconds=time.monotonic() - began,
    )


def _finish(
    order: Order,
    staging: Staging,
    exported: ExportedGraph,
    bound: _Bound,
    store: Store,
    report: Tell,
    stop: threading.Event,
) -> None:
    """The phases that no earlier build has finished, and publication."""
    if staging.done("export") is None:
        staging.phase_done("export", seconds=exported.seconds, peak_bytes=exported.peak_bytes)
    if staging.done("bind") is None:
        staging.write(GRAPH, bound.graph.proto.SerializeToString())
        staging.phase_done("bind", (GRAPH,), seconds=bound.seconds)
    if staging.done("build") is None:
        report("parse", 0.0)
        compiled = run_phase(compile_plan, (order.library, bound.request, staging.path(PLAN)), report, stop)
        took: BuildResult = compiled.result
        staging.phase_done("parse", seconds=took.parse_seconds)
        staging.phase_done(
            "build",
            (PLAN,),
            seconds=took.build_seconds,
            peak_bytes=compiled.peak_bytes,
            log=took.log,
            notes={"memory": msgspec.to_builtins(took.memory)},
        )
    staging.publish(
        models=(order.model,),
        certificate=_certified(order, staging, bound, store, report, stop),
        files=(PLAN, GRAPH),
        reproducible=BUILDERS[order.library].reproducible,
        memory=_memory(staging),
    )


def _memory(staging: Staging) -> DeviceMemory | None:
    """What the builder told; None also where an older worker finished that phase, and did not note it."""
    built = staging.done("build")
    return None if built is None else msgspec.convert(built.notes.get("memory"), DeviceMemory | None)


def _certified(
    order: Order, staging: Staging, bound: _Bound, store: Store, report: Tell, stop: threading.Event
) -> Certificate:
    """How the bound graph compares with PyTorch: once for all engines that are made of it."""
    if done := staging.done("certify"):
        return Certificate(verdict=done.notes["verdict"], figures=done.notes["figures"])
    report("certify", 0.0)
    began, peak = time.monotonic(), 0
    place, config = (order.architecture, order.module.name), dict(order.module.config)
    cache = CertificateCache(store.root / "certificates")
    file = cache.path("/".join(place), config, bound.identity.graph, bound.identity.weights)
    with hold(store.lock(file.stem), stop=stop):
        certificate = cache.get(file)
        if certificate is None:
            timesteps = architecture(order.architecture).passes[0].levels.units
            arguments: tuple[Any, ...] = (*place, config, bound.request.graph, bound.weights, timesteps)
            certified = run_phase(certify_by_name, arguments, report, stop)
            certificate, peak = certified.result, certified.peak_bytes
            cache.keep(file, certificate)
    staging.phase_done(
        "certify",
        seconds=time.monotonic() - began,
        peak_bytes=peak,
        notes={"verdict": certificate.verdict, "figures": certificate.figures},
    )
    return certificate
