"""TensorRT-RTX builds for real here, without a card."""

from __future__ import annotations

import ctypes
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorrt_rtx
from onnx import TensorProto

import trt_engines.builders.tensorrt_rtx
from trt_engines.builders.builder import BuildCancelled, BuildFailed, BuildRequest, Progress, keep_going
from trt_engines.builders.comparison import same_engine
from trt_engines.builders.tensorrt_rtx import TensorRtRtx
from trt_engines.store.identity import InputRange

Requests = Callable[..., BuildRequest]


def _plan(request: BuildRequest, file: Path) -> bytes:
    """The engine of a request."""
    TensorRtRtx().build(request, file, keep_going)
    return file.read_bytes()


def test_a_graph_is_compiled_for_several_kinds_of_cards_at_once(request_for: Requests, tmp_path: Path) -> None:
    result = TensorRtRtx().build(request_for(compute_capabilities=(75, 86, 89)), tmp_path / "plan", keep_going)

    assert (tmp_path / "plan").stat().st_size > 1000
    assert result.build_seconds > 0


def test_the_same_request_gives_the_same_engine(request_for: Requests, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for plan in (one, two):
        TensorRtRtx().build(request_for(), plan, keep_going)

    assert same_engine(one, two)


def test_several_profiles_make_another_engine_than_one(request_for: Requests, tmp_path: Path) -> None:
    small = InputRange(name="x", min=(1, 4, 8, 8), opt=(1, 4, 8, 8), max=(1, 4, 8, 8))
    large = InputRange(name="x", min=(1, 4, 16, 16), opt=(1, 4, 32, 32), max=(8, 4, 64, 64))

    one = _plan(request_for(profiles=((small,),)), tmp_path / "one")
    two = _plan(request_for(profiles=((small,), (large,))), tmp_path / "two")

    assert one != two


def test_an_engine_that_finds_no_room_is_told_and_nothing_of_it_stays(request_for: Requests, tmp_path: Path) -> None:
    script = """
import pickle, resource, sys
from pathlib import Path
from trt_engines.builders.comparison import same_engine
from trt_engines.builders.builder import keep_going
from trt_engines.builders.tensorrt_rtx import TensorRtRtx
from trt_engines.store.errors import StoreFull
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    TensorRtRtx().build(pickle.loads(bytes.fromhex(sys.argv[1])), Path(sys.argv[2]), keep_going)
except StoreFull as exc:
    print(exc)
"""
    command = [sys.executable, "-c", script, pickle.dumps(request_for()).hex(), str(tmp_path / "plan")]

    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    assert "the engine of small.onnx" in told
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]


def test_progress_is_told_in_steps_of_named_phases(request_for: Requests, tmp_path: Path) -> None:
    seen: list[Progress] = []

    TensorRtRtx().build(request_for(), tmp_path / "plan", lambda progress: seen.append(progress) or True)  # type: ignore[func-returns-value]

    assert seen
    assert all(0 <= one.done <= one.steps and one.phase for one in seen)
    assert any(one.done == one.steps for one in seen)


def test_a_report_that_says_no_stops_the_build(request_for: Requests, tmp_path: Path) -> None:
    with pytest.raises(BuildCancelled, match=r"small\.onnx was stopped"):
        TensorRtRtx().build(request_for(), tmp_path / "plan", lambda progress: False)


def test_an_operator_that_the_library_lacks_is_named_with_its_node(request_for: Requests, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"node 'last' \(Det\) cannot be compiled"):
        TensorRtRtx().build(request_for(operator="Det"), tmp_path / "plan", keep_going)


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
    request_for: Requests, tmp_path: Path, ranges: tuple[InputRange, ...], reason: str
) -> None:
    with pytest.raises(BuildFailed, match=reason):
        TensorRtRtx().build(request_for(profiles=(ranges,) if ranges else ()), tmp_path / "plan", keep_going)


def test_a_profile_for_an_input_that_the_graph_lacks_is_an_error(request_for: Requests, tmp_path: Path) -> None:
    x = InputRange(name="x", min=(1, 4, 8, 8), opt=(1, 4, 8, 8), max=(1, 4, 8, 8))
    z = InputRange(name="z", min=(1,), opt=(1,), max=(1,))

    with pytest.raises(BuildFailed, match="for an input 'z', and the graph has x"):
        TensorRtRtx().build(request_for(profiles=((x, z),)), tmp_path / "plan", keep_going)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"compute_capabilities": (61,)}, "SM61 .Pascal. is older than Turing"),
        ({"compute_capabilities": (90,)}, "no SM90 target .* build with --library tensorrt"),
        ({"compute_capabilities": (86,), "precision": "float8"}, "SM86 cannot compute in float8"),
        ({"compute_capabilities": (75,), "precision": "bfloat16"}, "SM75 cannot compute in bfloat16"),
    ],
)
def test_what_cannot_work_is_refused_before_it_is_tried(
    request_for: Requests, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    request = request_for(**changes)

    with pytest.raises(BuildFailed, match=reason):
        TensorRtRtx().build(request, tmp_path / "plan", keep_going)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_a_call_never_allocates_so_that_it_can_be_captured_unless_weights_are_streamed(
    request_for: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    configs: list[Any] = []

    def compile_graph(*args: Any) -> Any:
        *_, target = args
        return real(*args[:-1], lambda config: (configs.append(config), target(config)))

    real = trt_engines.builders.tensorrt_rtx.compile_graph
    monkeypatch.setattr(trt_engines.builders.tensorrt_rtx, "compile_graph", compile_graph)

    TensorRtRtx().build(request_for(weight_streaming=streams), tmp_path / "plan", keep_going)

    assert configs[0].get_flag(tensorrt_rtx.BuilderFlag.REQUIRE_USER_ALLOCATION) is not streams


def test_a_float32_graph_is_compiled_for_ampere(request_for: Requests, tmp_path: Path) -> None:
    request = request_for(precision="float32", element=TensorProto.FLOAT)

    assert _plan(request, tmp_path / "plan")


def test_a_refittable_engine_is_refused_where_there_is_no_driver(request_for: Requests) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert "only where an NVIDIA driver is installed" in str(TensorRtRtx().refuses(request_for(refittable=True)))
    else:
        assert TensorRtRtx().refuses(request_for(refittable=True)) is None
