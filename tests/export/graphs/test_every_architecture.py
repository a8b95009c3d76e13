"""Weightless graphs of every network: they compute what PyTorch computes, and TensorRT-RTX parses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorrt_rtx as trt
import torch
from safetensors.torch import save_file

from trt_export.architectures.architecture import ComponentSpec, Quantity
from trt_export.architectures.registry import ARCHITECTURES
from trt_export.checkpoints.binding import bind
from trt_export.checkpoints.safetensors_file import read_header
from trt_export.graphs.bound import bind_graph, link_files
from trt_export.graphs.exporter import TYPES, export_graph, parameters


def _networks(*predictions: str) -> list[Any]:
    """Each network once: architectures share text encoders and autoencoders."""
    found: dict[tuple[Any, str], Any] = {}
    for entry in (one for one in ARCHITECTURES if one.prediction in predictions):
        for component in entry.components:
            key = (component.make, repr(component.small_config))
            found.setdefault(key, pytest.param(component.small, id=f"{entry.name}-{component.name}"))
    return list(found.values())


def _at(rows: int, width: int, height: int, tokens: int) -> dict[Quantity, int]:
    return {Quantity.ROWS: rows, Quantity.WIDTH: width, Quantity.HEIGHT: height, Quantity.TOKENS: tokens}


BUCKETS = tuple(_at(rows, *size) for size in ((128, 64, 64), (64, 192, 96)) for rows in (1, 3))


@pytest.mark.parametrize("component", _networks("epsilon", "v_prediction", "flow"))
def test_a_graph_computes_what_pytorch_computes_at_other_sizes_and_rows(
    component: ComponentSpec, small_module: Callable[..., Any], graph_and_pytorch: Callable[..., Any]
) -> None:
    graph = export_graph(component, "float32")

    for results, expected in graph_and_pytorch(component, graph, small_module(component), BUCKETS):
        assert len(results) == len(component.outputs)
        for one, other in zip(results, expected, strict=True):
            assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()


@pytest.mark.parametrize("component", _networks("flow"))
def test_tensorrt_rtx_parses_the_graph_in_its_best_precision(
    component: ComponentSpec, tmp_path: Path, small_module: Callable[..., Any]
) -> None:
    precision = component.precisions[0]
    graph, folder = export_graph(component, precision), tmp_path / "graph"
    folder.mkdir()
    state = small_module(component).to(TYPES[precision]).state_dict()
    weights = {name: torch.clone(state[name], memory_format=torch.contiguous_format) for name in parameters(graph)}
    save_file(weights, tmp_path / "w.safetensors")
    bound = bind_graph(
        graph, bind(parameters(graph), read_header(tmp_path / "w.safetensors"), (), tmp_path / "side.safetensors")
    )
    link_files(bound, folder)
    onnx.save(bound.proto, folder / "graph.onnx")

    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)

    assert parser.parse_from_file(str(folder / "graph.onnx")), [
        parser.get_error(number).desc() for number in range(parser.num_errors)
    ]
