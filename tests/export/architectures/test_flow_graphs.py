"""Graphs of every flow-model network: TensorRT-RTX's parser takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trt_export.architectures.architecture import ComponentSpec, Quantity
from trt_export.architectures.registry import ARCHITECTURES

TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _networks() -> list[Any]:
    """Each network once: architectures share text encoders and autoencoders."""
    found: dict[tuple[Any, str], Any] = {}
    for entry in ARCHITECTURES:
        for component in entry.components:
            if entry.prediction == "flow":
                key = (component.make, repr(component.small_config))
                found.setdefault(key, pytest.param(component, id=f"{entry.name}-{component.name}"))
    return list(found.values())


def at(*, rows: int, width: int = 96, height: int = 64, tokens: int = 64) -> dict[Quantity, int]:
    return {Quantity.ROWS: rows, Quantity.WIDTH: width, Quantity.HEIGHT: height, Quantity.TOKENS: tokens}


@pytest.mark.parametrize("component", _networks())
def test_tensorrt_rtx_parses_the_graph_in_its_best_precision(
    component: ComponentSpec, tmp_path: Path, small_module: Callable[..., Any], export_small: Callable[..., Path]
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    dtype = TYPES[component.precisions[0]]
    module = small_module(component).to(dtype)
    file = export_small(component, module, at(rows=2), tmp_path / "graph.onnx", dtype)

    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)

    assert parser.parse_from_file(str(file)), [parser.get_error(n).desc() for n in range(parser.num_errors)]
