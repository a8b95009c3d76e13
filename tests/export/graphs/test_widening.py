"""A graph of half precision as one of float32."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_export.graphs.widening import widen


@pytest.fixture
def halves() -> onnx.ModelProto:
    """(sample + 0.1 in half precision) cast to half precision, doubled by a constant node."""
    half = TensorProto.FLOAT16
    two = numpy_helper.from_array(np.array(2, np.float16))
    nodes = [
        helper.make_node("Add", ["sample", "tenth"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["again"], to=half),
        helper.make_node("Constant", [], ["two"], value=two),
        helper.make_node("Mul", ["again", "two"], ["result"]),
    ]
    ports = [helper.make_tensor_value_info(name, half, [1]) for name in ("sample", "result")]
    tenth = numpy_helper.from_array(np.array([0.1], np.float16), "tenth")
    graph = helper.make_graph(nodes, "halves", ports[:1], ports[1:], [tenth])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_everything_is_computed_in_float32_with_the_constants_of_the_narrow_type(halves: onnx.ModelProto) -> None:
    widen(halves, {TensorProto.FLOAT16})

    session = onnxruntime.InferenceSession(halves.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"sample": np.array([1 / 3], np.float32)})
    assert result.dtype == np.float32
    assert result[0] == pytest.approx(2 * (1 / 3 + float(np.float16(0.1))), rel=1e-6)  # half precision: 2e-4 off


def test_other_types_stay(halves: onnx.ModelProto) -> None:
    before = halves.SerializeToString()

    widen(halves, {TensorProto.BFLOAT16})

    assert halves.SerializeToString() == before


@pytest.mark.parametrize(("weights_too", "kinds"), [(True, ["Add"]), (False, ["Cast", "Add"])])
def test_weights_in_other_files_stay_as_stored_behind_a_cast_unless_the_files_are_float32(
    weights_too: bool, kinds: list[str]
) -> None:
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT16, dims=[1], data_location=TensorProto.EXTERNAL)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1]) for name in ("sample", "result")]
    add = helper.make_node("Add", ["sample", "weight"], ["result"])
    model = helper.make_model(helper.make_graph([add], "sum", ports[:1], ports[1:], [weight]))

    widen(model, {TensorProto.FLOAT16}, weights_too=weights_too)

    assert [node.op_type for node in model.graph.node] == kinds
    kept = TensorProto.FLOAT if weights_too else TensorProto.FLOAT16
    assert model.graph.initializer[0].data_type == kept
    assert model.graph.node[-1].input[1] == ("weight" if weights_too else model.graph.node[0].output[0])
