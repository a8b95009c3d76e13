"""A small convolution with dynamic rows and sides, to be compiled by the real builder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_engines.builders.builder import BuildRequest
from trt_engines.store.identity import InputRange

RANGE = InputRange(name="x", min=(1, 4, 8, 8), opt=(2, 4, 16, 16), max=(4, 4, 32, 32))


def _graph(folder: Path, *, operator: str = "Relu", element: int = TensorProto.FLOAT16) -> Path:
    weight = np.random.default_rng(1).standard_normal((8, 4, 3, 3)).astype(np.float32)
    initializer = numpy_helper.from_array(weight.astype(helper.tensor_dtype_to_np_dtype(element)), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node(operator, ["c"], ["y"], name="last"),
    ]
    x = helper.make_tensor_value_info("x", element, ["rows", 4, "height", "width"])
    y = helper.make_tensor_value_info("y", element, ["rows", 8, "height", "width"])
    graph = helper.make_graph(nodes, "small", [x], [y], [initializer])
    file = folder / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return file


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[..., BuildRequest]:
    def make(*, operator: str = "Relu", element: int = TensorProto.FLOAT16, **changes: Any) -> BuildRequest:
        settings: dict[str, Any] = {
            "graph": _graph(tmp_path, operator=operator, element=element),
            "precision": "float16",
            "profiles": ((RANGE,),),
            "compute_capabilities": (86,),
        }
        return BuildRequest(**(settings | changes))

    return make
