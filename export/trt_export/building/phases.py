"""The phases that need PyTorch, by names that travel between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trt_engines.bound_weights import BoundTensor
from trt_engines.modules.registry import module_of
from trt_engines.store.manifest import Certificate
from trt_export.child import Tell
from trt_export.samples import SAMPLES


def export_by_name(family: str, network: str, config: Mapping[str, Any], precision: str, tell: Tell) -> bytes:
    """The graph of a network."""
    from trt_export.graphs.exporter import export_graph

    graph: bytes = export_graph(module_of(family, network), precision, config, tell).SerializeToString()
    return graph


def certify_by_name(
    family: str,
    network: str,
    config: Mapping[str, Any],
    graph: Path,
    weights: Sequence[BoundTensor],
    timesteps: float,
    tell: Tell,
) -> Certificate:
    """How a bound graph compares with PyTorch."""
    from trt_export.building.certificate import certify

    return certify(module_of(family, network).configured(config), graph, weights, SAMPLES, timesteps, tell)
