"""A graph of a narrow real type as the same graph in float32."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def widen(model: onnx.ModelProto, types: Collection[int], *, weights_too: bool = False) -> None:
    """Turn types into float32 throughout a graph, in place.

    Args:
        types: of `TensorProto`, as BFLOAT16.
        weights_too: whether initializers that lie in other files become float32 as well, for files that hold them so;
            otherwise they stay as they are stored, with a Cast behind each.
    """
    casts: list[onnx.NodeProto] = []

    def widen_tensor(tensor: TensorProto) -> None:
        if tensor.data_type not in types:
            return
        if tensor.data_location != TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
        elif weights_too:
            tensor.data_type = TensorProto.FLOAT
        else:
            wide = f"{tensor.name}.wide"
            casts.append(helper.make_node("Cast", [tensor.name], [wide], name=f"{wide}.cast", to=TensorProto.FLOAT))

    for tensor in model.graph.initializer:
        widen_tensor(tensor)
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type in types:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    widened = {node.input[0]: node.output[0] for node in casts}
    for node in model.graph.node:
        node.input[:] = [widened.get(name, name) for name in node.input]
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i in types:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                widen_tensor(attribute.t)
    body = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *body])
