"""Weightless graphs of every network: they compute what PyTorch computes, and TensorRT-RTX parses them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pytest
import tensorrt_rtx as trt

from trt_export.architectures.architecture import ComponentSpec
from trt_export.architectures.registry import networks
from trt_export.graphs.exporter import export_graph
from trt_export.parity import lively_module, worst_difference, write_bound


def _small(key: Callable[[ComponentSpec], Hashable]) -> list[Any]:
    """The first network of each key, in its small configuration."""
    return [
        pytest.param(component.small, id=f"{entry.name}-{component.name}")
        for entry, component in networks(key).values()
    ]


@pytest.mark.parametrize("component", _small(lambda one: (one.make, repr(one.small_config))))
def test_a_graph_computes_what_pytorch_computes_at_other_sizes_and_rows(component: ComponentSpec) -> None:
    graph = export_graph(component, "float32")

    assert worst_difference(component, graph, lively_module(component)) <= 1e-4


@pytest.mark.parametrize("component", _small(lambda one: one.make))
def test_tensorrt_rtx_parses_the_graph_in_its_best_precision(component: ComponentSpec, tmp_path: Path) -> None:
    precision = component.precisions[0]
    graph = write_bound(export_graph(component, precision), lively_module(component), precision, tmp_path)

    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)

    assert parser.parse_from_file(str(graph)), [parser.get_error(number).desc() for number in range(parser.num_errors)]
