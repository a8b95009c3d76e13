"""A weightless graph: the one that the cache has, or else exported into it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.store.locks import hold
from trt_export.building.phases import export_by_name
from trt_export.child import Tell, run_phase
from trt_export.graphs.cache import GraphCache


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedGraph:
    """A weightless graph, and what exporting it took."""

    data: bytes
    seconds: float = 0.0  # 0: it was there
    peak_bytes: int = 0


def exported_graph(
    cache: GraphCache, architecture: str, module: ModuleSpec, precision: str, tell: Tell, stop: threading.Event
) -> ExportedGraph:
    """The graph of a network, exported by one process if several need it.

    Raises: PhaseFailed, Stopped, WaitingStopped, StoreFull, OSError.
    """
    file = cache.path(f"{architecture}/{module.name}", module.config, precision)
    cache.root.mkdir(parents=True, exist_ok=True)
    with hold(file.with_suffix(".lock"), stop=stop):
        if file.exists():
            return ExportedGraph(data=file.read_bytes())
        began = time.monotonic()
        place = (architecture, module.name, dict(module.config), precision)
        done = run_phase(export_by_name, place, tell, stop)
        cache.keep(file, done.result)
        return ExportedGraph(data=done.result, seconds=time.monotonic() - began, peak_bytes=done.peak_bytes)
