"""TensorRT-RTX builds for real here, without a card."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
from onnx import TensorProto

from trt_engines.builders.builder import BuildCancelled, BuildFailed, BuildRequest, Progress, keep_going
from trt_engines.builders.tensorrt_rtx import TensorRtRtx
from trt_engines.store.identity import InputRange

Requests = Callable[..., BuildRequest]


def test_a_graph_is_compiled_for_several_kinds_of_cards_at_once(request_for: Requests) -> None:
    result = TensorRtRtx().build(request_for(compute_capabilities=(75, 86, 89)), keep_going)

    assert len(result.plan) > 1000
    assert result.build_seconds > 0


def test_the_same_request_gives_the_same_bytes(request_for: Requests) -> None:
    request = request_for()

    assert TensorRtRtx().build(request, keep_going).plan == TensorRtRtx().build(request, keep_going).plan


def test_several_profiles_make_another_engine_than_one(request_for: Requests) -> None:
    small = InputRange(name="x", min=(1, 4, 8, 8), opt=(1, 4, 8, 8), max=(1, 4, 8, 8))
    large = InputRange(name="x", min=(1, 4, 16, 16), opt=(1, 4, 32, 32), max=(8, 4, 64, 64))

    one = TensorRtRtx().build(request_for(profiles=((small,),)), keep_going)
    two = TensorRtRtx().build(request_for(profiles=((small,), (large,))), keep_going)

    assert one.plan != two.plan


def test_progress_is_told_in_steps_of_named_phases(request_for: Requests) -> None:
    seen: list[Progress] = []

    TensorRtRtx().build(request_for(), lambda progress: seen.append(progress) or True)  # type: ignore[func-returns-value]

    assert seen
    assert all(0 <= one.done <= one.steps and one.phase for one in seen)
    assert any(one.done == one.steps for one in seen)


def test_a_report_that_says_no_stops_the_build(request_for: Requests) -> None:
    with pytest.raises(BuildCancelled, match=r"small\.onnx was stopped"):
        TensorRtRtx().build(request_for(), lambda progress: False)


def test_an_operator_that_the_library_lacks_is_named_with_its_node(request_for: Requests) -> None:
    with pytest.raises(BuildFailed, match=r"node 'last' \(Det\) cannot be compiled"):
        TensorRtRtx().build(request_for(operator="Det"), keep_going)


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        ((), "have dynamic axes, and the request has no profile"),
        ((InputRange(name="z", min=(1,), opt=(1,), max=(1,)),), "profile 1 gives no shapes for x"),
        ((InputRange(name="x", min=(1, 4), opt=(1, 4), max=(1, 4)),), "profile 1 gives 'x' 2 axes"),
        (
            (InputRange(name="x", min=(1, 3, 8, 8), opt=(1, 3, 8, 8), max=(1, 3, 8, 8)),),
            "profile 1 does not fit the graph's fixed axes|could not be compiled",
        ),
    ],
)
def test_a_profile_that_does_not_suit_the_graph_is_an_error_that_says_how(
    request_for: Requests, ranges: tuple[InputRange, ...], reason: str
) -> None:
    with pytest.raises(BuildFailed, match=reason):
        TensorRtRtx().build(request_for(profiles=(ranges,) if ranges else ()), keep_going)


def test_a_profile_for_an_input_that_the_graph_lacks_is_an_error(request_for: Requests) -> None:
    x = InputRange(name="x", min=(1, 4, 8, 8), opt=(1, 4, 8, 8), max=(1, 4, 8, 8))
    z = InputRange(name="z", min=(1,), opt=(1,), max=(1,))

    with pytest.raises(BuildFailed, match="for an input 'z', and the graph has x"):
        TensorRtRtx().build(request_for(profiles=((x, z),)), keep_going)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"compute_capabilities": (61,)}, "SM61 .Pascal. is older than Turing"),
        ({"compute_capabilities": (90,)}, "no SM90 target .* build with TensorRT"),
        ({"compute_capabilities": (86,), "precision": "float8"}, "SM86 cannot compute in float8"),
        ({"compute_capabilities": (75,), "precision": "bfloat16"}, "SM75 cannot compute in bfloat16"),
    ],
)
def test_what_cannot_work_is_refused_before_it_is_tried(
    request_for: Requests, changes: dict[str, object], reason: str
) -> None:
    request = request_for(**changes)

    with pytest.raises(BuildFailed, match=reason):
        TensorRtRtx().build(request, keep_going)


def test_a_float32_graph_is_compiled_for_ampere(request_for: Requests) -> None:
    request = request_for(precision="float32", element=TensorProto.FLOAT)

    assert TensorRtRtx().build(request, keep_going).plan


def test_a_refittable_engine_is_refused_where_there_is_no_driver(request_for: Requests) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert "only where an NVIDIA driver is installed" in str(TensorRtRtx().refuses(request_for(refittable=True)))
    else:
        assert TensorRtRtx().refuses(request_for(refittable=True)) is None
