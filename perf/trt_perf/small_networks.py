"""Every architecture in its small configuration: graphs against PyTorch, and engines for three generations of cards."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trt_engines.architectures.network import Network
from trt_engines.builders.builder import BuildFailed, BuildRequest, keep_going
from trt_engines.builders.tensorrt_rtx import TensorRtRtx
from trt_engines.cards import card
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.registry import MODULES, module_of, networks
from trt_engines.profiles.profile import Profile, Range
from trt_export.building.order import input_ranges
from trt_export.child import Tell, run_phase, unheard
from trt_export.graphs.exporter import export_graph
from trt_export.parity import lively_module, worst_difference, write_bound
from trt_export.plan import precision_of
from trt_perf.network_key import network_key
from trt_perf.progress import Progress

CARDS = ("RTX 2060", "RTX 3060", "RTX 4090")
"""SM75, SM86 and SM89. On the first, networks without a half precision form are left to the PyTorch fallback: it has no
bfloat16, and TensorRT-RTX 1.7.1 has no float32 matrix product for it."""

TURING = 75

PROFILE = Profile(
    width=Range(min=64, opt=128, max=192),
    height=Range(min=64, opt=128, max=192),
    rows=Range(min=1, opt=2, max=3),
    tokens=Range(min=64, opt=64, max=96),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one network."""

    network: str
    key: str
    parity: float  # largest error over the reference's largest value
    failures: tuple[str, ...]  # engines that could not be built, and why


def measure(progress: Progress) -> dict[str, float]:
    """Worst parity of all networks, and the share of architectures whose every network became an engine."""
    owned: dict[str, list[str]] = {}
    for entry, spec in networks(_key).values():
        owned.setdefault(entry.name, []).append(spec.name)

    def run(name: str) -> list[Outcome]:
        finished = run_phase(outcomes, (name, tuple(owned[name])), unheard, threading.Event())
        found: list[Outcome] = finished.result
        for one in found:
            built = "; ".join(one.failures) or "built"
            progress.say(f"{name} {one.network}, small: {one.parity:.1e} from PyTorch, {built}")
        return found

    # Tracing keeps one core busy: as many architectures at once as there are cores.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = [one for some in pool.map(run, owned) for one in some]
    failed = {one.key for one in found if one.failures}
    built = [family for family, specs in MODULES.items() if failed.isdisjoint(map(_key, specs))]
    return {
        "architectures_parity_max_rel": float(np.max([one.parity for one in found])),  # NaN if any is
        "architectures_built": len(built) / len(MODULES),
    }


def outcomes(family: str, names: tuple[str, ...], tell: Tell) -> list[Outcome]:
    """A phase: networks of an architecture, one after the other."""
    del tell
    return [_outcome(module_of(family, name)) for name in names]


def targets(network: Network) -> Mapping[str, tuple[int, ...]]:
    """The cards that share an engine of a network, by its precision: one engine serves several generations."""
    found: dict[str, list[int]] = {}
    for each in map(card, CARDS):
        precision = precision_of(network, each)
        if precision is not None and not (each.sm == TURING and precision == "float32"):
            found.setdefault(precision, []).append(each.sm)
    return {precision: tuple(capabilities) for precision, capabilities in found.items()}


def _outcome(full_size: ModuleSpec) -> Outcome:
    spec = full_size.small
    module = lively_module(spec)
    parity = worst_difference(spec, export_graph(spec, "float32"), module)
    failures = []
    for precision, capabilities in targets(spec.network).items():
        with tempfile.TemporaryDirectory() as folder:
            graph = write_bound(export_graph(spec, precision), module, precision, Path(folder))
            request = BuildRequest(
                graph=graph,
                precision=precision,
                profiles=(input_ranges(spec.network, PROFILE),),
                compute_capabilities=capabilities,
                batch_independent=True,
            )
            try:
                TensorRtRtx().build(request, Path(folder, "engine.plan"), keep_going)
            except BuildFailed as exc:
                failures.append(f"{precision}: {exc}")
    return Outcome(network=spec.name, key=_key(spec), parity=parity, failures=tuple(failures))


def _key(spec: ModuleSpec) -> str:
    """What decides a small network's graph, its types and the cards it is for."""
    return network_key(spec, spec.small_config, spec.network.precisions)
