"""What stands in the way of a build is found before it starts, and said with a remedy."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from trt_engines.builders.builder import BuildRequest
from trt_engines.builders.preflight import Machine, Needs, float32_product, obstacles
from trt_engines.builders.tensorrt import TensorRt
from trt_engines.builders.tensorrt_rtx import TensorRtRtx

Requests = Callable[..., BuildRequest]
GB = 10**9
LARGE = Machine(memory_bytes=64 * GB, disk_bytes=100 * GB)
SMALL = Needs(memory_bytes=4 * GB, disk_bytes=GB)


def _product(folder: Path, element: int) -> Path:
    """x -> Cast -> MatMul, the product in `element`."""
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], name="cast", to=element),
        helper.make_node("MatMul", ["c", "c"], ["y"], name="product"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [4, 4])
    y = helper.make_tensor_value_info("y", element, [4, 4])
    file = folder / "product.onnx"
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=opsets, ir_version=10), file)
    return file


def test_nothing_speaks_against_a_small_build_on_a_large_machine(request_for: Requests) -> None:
    assert obstacles(TensorRtRtx(), request_for(), SMALL, LARGE, None) == ()


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (
            Machine(memory_bytes=16 * GB, disk_bytes=100 * GB),
            "17.0 GB of memory and 16.0 GB are free; stop other .*import",
        ),
        (Machine(memory_bytes=64 * GB, disk_bytes=49 * GB // 10), "5.0 GB and 4.9 GB are free where engines .*prune"),
    ],
)
def test_too_little_memory_or_disk_is_told_with_both_numbers(
    request_for: Requests, machine: Machine, reason: str
) -> None:
    needs = Needs(memory_bytes=17 * GB, disk_bytes=5 * GB)

    (found,) = obstacles(TensorRtRtx(), request_for(), needs, machine, None)

    assert re.search(reason, found)


def test_fewer_profiles_are_a_way_out_of_too_little_memory_where_there_are_several(request_for: Requests) -> None:
    one = request_for()
    two = replace(one, profiles=one.profiles * 2)
    little = replace(LARGE, memory_bytes=GB)

    told = [obstacles(TensorRtRtx(), request, SMALL, little, None)[0] for request in (one, two)]

    assert ["--profiles" in reason for reason in told] == [False, True]


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_a_missing_package_is_told_with_its_command(request_for: Requests) -> None:
    machine = replace(LARGE, cards=frozenset({90}))

    (found,) = obstacles(TensorRt(), request_for(compute_capabilities=(90,)), SMALL, machine, None)

    assert "pip install tensorrt-cu13" in found


def test_a_library_that_builds_on_the_card_alone_is_refused_where_the_card_is_not(request_for: Requests) -> None:
    machine = replace(LARGE, cards=frozenset({86}))

    found = obstacles(TensorRt(), request_for(compute_capabilities=(90,)), SMALL, machine, None)

    assert "which has SM86 and not SM90" in found[-1]


def test_every_reason_is_told_at_once(request_for: Requests) -> None:
    request = request_for(compute_capabilities=(61,))

    found = obstacles(TensorRtRtx(), request, SMALL, Machine(memory_bytes=GB, disk_bytes=GB // 2), None)

    assert len(found) == 3


def test_a_float32_product_is_refused_for_turing_and_named(tmp_path: Path, request_for: Requests) -> None:
    product = float32_product(_product(tmp_path, TensorProto.FLOAT))
    assert product == "product"

    (found,) = obstacles(TensorRtRtx(), request_for(compute_capabilities=(75, 86)), SMALL, LARGE, product)

    assert "no float32 matrix product for SM75, and 'product' is one" in found
    assert obstacles(TensorRtRtx(), request_for(), SMALL, LARGE, product) == ()


def test_a_half_precision_product_is_no_float32_product(tmp_path: Path) -> None:
    assert float32_product(_product(tmp_path, TensorProto.FLOAT16)) is None
