"""Graphs of every network, exported without weights, compute what PyTorch computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trt_export.architectures.architecture import ComponentSpec, Quantity
from trt_export.architectures.registry import ARCHITECTURES
from trt_export.graphs.exporter import export_graph


def _networks() -> list[Any]:
    """Each network once: architectures share text encoders and autoencoders."""
    found: dict[tuple[Any, str], Any] = {}
    for entry in ARCHITECTURES:
        for component in entry.components:
            key = (component.make, repr(component.small_config))
            found.setdefault(key, pytest.param(component.small, id=f"{entry.name}-{component.name}"))
    return list(found.values())


def _at(rows: int, width: int, height: int, tokens: int) -> dict[Quantity, int]:
    return {Quantity.ROWS: rows, Quantity.WIDTH: width, Quantity.HEIGHT: height, Quantity.TOKENS: tokens}


BUCKETS = tuple(_at(rows, *size) for size in ((128, 64, 64), (64, 192, 96)) for rows in (1, 3))


@pytest.mark.parametrize("component", _networks())
def test_a_graph_computes_what_pytorch_computes_at_other_sizes_and_rows(
    component: ComponentSpec, small_module: Callable[..., Any], graph_and_pytorch: Callable[..., Any]
) -> None:
    graph = export_graph(component, "float32")

    for results, expected in graph_and_pytorch(component, graph, small_module(component), BUCKETS):
        assert len(results) == len(component.outputs)
        for one, other in zip(results, expected, strict=True):
            assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()
