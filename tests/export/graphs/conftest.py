"""Weightless graphs and the networks they came from, computed side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from trt_export.architectures.architecture import ComponentSpec, Quantity
from trt_export.graphs.exporter import parameters

Sizes = Mapping[Quantity, int]


def _session(graph: onnx.ModelProto, module: nn.Module) -> onnxruntime.InferenceSession:
    """The graph with the module's weights, which stay where they are."""
    state = module.state_dict()
    names = list(parameters(graph))
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(state[name].contiguous().numpy()) for name in names]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_external_initializers(names, values)
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.fixture
def graph_and_pytorch(inputs_of: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[..., Any]:
    """Results of a graph and of the module it came from, in several buckets."""

    def both(
        component: ComponentSpec, graph: onnx.ModelProto, module: nn.Module, buckets: tuple[Sizes, ...]
    ) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
        session = _session(graph, module)
        found = []
        for sizes in buckets:
            inputs = inputs_of(component, sizes)
            expected = module(*inputs)
            expected = expected if isinstance(expected, tuple) else (expected,)
            feeds = {tensor.name: value.numpy() for tensor, value in zip(component.inputs, inputs, strict=True)}
            found.append((session.run(None, feeds), [value.numpy() for value in expected]))
        return found

    return both
