"""A build, every call of it checked against what the libraries declare: the only proof of TensorRT without a card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trt_engines.builders.builder import BuildRequest, keep_going
from trt_engines.builders.tensorrt import TensorRt
from trt_engines.store.identity import InputRange

StandIn = Callable[[str, Any], None]
SHAPES = ((1, 4, 8, 8), (2, 4, 8, 8), (4, 4, 8, 8))
ANSWERS: dict[str, Any] = {
    "INetworkDefinition.num_inputs": 1,
    "ITensor.name": "sample",
    "ITensor.shape": (-1, 4, 8, 8),
    "IBuilderConfig.add_optimization_profile": 0,
    "ITimingCache.serialize": b"measured",
}


@pytest.fixture
def library(tensorrt: tuple[Any, str], stand_in: StandIn, make_library: Any) -> Any:
    module, version = tensorrt
    double = make_library(module, ANSWERS, version)
    stand_in("tensorrt", double)
    return double


def a_request(folder: Path, **changes: Any) -> BuildRequest:
    low, best, high = SHAPES
    settings: dict[str, Any] = {
        "graph": folder / "graph.onnx",
        "precision": "float16",
        "profiles": ((InputRange(name="sample", min=low, opt=best, max=high),),),
        "compute_capabilities": (90,),
        "workspace_bytes": 1 << 30,
    }
    return BuildRequest(**(settings | changes))


def test_tensorrt_is_asked_only_for_what_it_declares(library: Any, tmp_path: Path) -> None:
    TensorRt().build(a_request(tmp_path, refittable=True), tmp_path / "plan", keep_going)

    assert {"parse_from_file", "build_serialized_network_to_stream", "set_memory_pool_limit"} <= library.used
    assert "create_timing_cache" not in library.used


def test_what_was_measured_on_the_card_is_kept_for_the_next_build(library: Any, tmp_path: Path) -> None:
    cache = tmp_path / "timing" / "sm90.cache"

    for _ in range(2):  # the second begins with what the first measured
        TensorRt().build(a_request(tmp_path, timing_cache=cache), tmp_path / "plan", keep_going)

    assert cache.read_bytes() == b"measured"
    assert {"create_timing_cache", "set_timing_cache", "get_timing_cache"} <= library.used
