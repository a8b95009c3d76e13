"""Weightless graphs of every network: they compute what PyTorch computes, and TensorRT-RTX parses them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pytest
import tensorrt_rtx as trt
from onnx import TensorProto

from trt_engines.builders.builder import BuildRequest, keep_going
from trt_engines.builders.tensorrt_rtx import TensorRtRtx
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.registry import module_of, networks
from trt_engines.profiles.profile import Profile, Range
from trt_export.building.order import input_ranges
from trt_export.graphs.exporter import export_graph
from trt_export.graphs.widening import widen
from trt_export.parity import lively_module, worst_difference, write_bound

SD1_UNET = module_of("stable_diffusion_1", "denoiser").small
"""It is built as well: parsing does not show whether sides of any length have a kernel."""

ROUNDING = {"float32": 0.0, "float16": 2**-11, "bfloat16": 2**-8}
"""The largest relative error of a constant."""


def _small(key: Callable[[ModuleSpec], Hashable]) -> list[Any]:
    """The first network of each key, in its small configuration."""
    return [
        pytest.param(component.small, id=f"{entry.name}-{component.name}")
        for entry, component in networks(key).values()
    ]


@pytest.mark.parametrize("component", _small(lambda one: (one.make, tuple(tensor.name for tensor in one.inputs))))
def test_a_graph_in_its_best_precision_is_parsed_by_tensorrt_rtx_and_computes_what_pytorch_computes(
    component: ModuleSpec, tmp_path: Path
) -> None:
    """At other sizes and rows than it was traced at, and in float32, where rounding hides little: only constants, as a
    latent's scale, are those of the narrow type. (`bench build` compares graphs that were exported in float32.)"""
    precision = component.network.precisions[0]
    graph, module = export_graph(component, precision), lively_module(component)

    bound = write_bound(graph, module, precision, tmp_path)
    assert not _refusals(bound)
    if component == SD1_UNET:
        _builds_for_sides_that_no_level_halves(component, bound, tmp_path)

    widen(graph, {TensorProto.FLOAT16, TensorProto.BFLOAT16}, weights_too=True)
    assert worst_difference(component, graph, module) <= 1e-4 + ROUNDING[precision]


def _refusals(graph: Path) -> list[str]:
    """What TensorRT-RTX's parser says against a graph."""
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(graph))
    said = [parser.get_error(number).desc() for number in range(parser.num_errors)]
    return said if parsed else said or ["no reason given"]


def _builds_for_sides_that_no_level_halves(component: ModuleSpec, graph: Path, folder: Path) -> None:
    profile = Profile(
        width=Range(min=64, opt=72, max=200),
        height=Range(min=64, opt=136, max=200),
        rows=Range(min=1, opt=2, max=2),
        tokens=Range(min=77, opt=77, max=77),
    )
    ranges = input_ranges(component.network, profile)
    sample = next(one for one in ranges if one.name == "sample")
    assert (sample.min[2:], sample.opt[2:], sample.max[2:]) == ((8, 8), (17, 9), (25, 25))

    request = BuildRequest(
        graph=graph, precision="float16", profiles=(ranges,), compute_capabilities=(86,), optimization_level=0
    )
    TensorRtRtx().build(request, folder / "plan", keep_going)

    assert (folder / "plan").stat().st_size > 100_000
