"""Small networks with lively weights, their weightless graphs, and both computed side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from trt_export.architectures.architecture import ComponentSpec, Kind, Quantity, Tensor
from trt_export.graphs.exporter import parameters

Sizes = Mapping[Quantity, int]


def _small_module(component: ComponentSpec) -> nn.Module:
    """The small configuration, seeded, with no weight left at its trivial start."""
    torch.manual_seed(7)
    module = component.make(component.small_config).eval()
    for weight in module.parameters():
        spread = min(0.05, weight[0].numel() ** -0.5)
        weight.copy_(torch.randn_like(weight) * spread + (0 if weight.dim() > 1 else weight))
    for name, statistic in module.named_buffers():
        if name.endswith("running_mean"):
            statistic.copy_(torch.randn_like(statistic))
        elif name.endswith("running_var"):
            statistic.copy_(torch.rand_like(statistic) + 0.5)
    return module


def _inputs_of(component: ComponentSpec, at: Sizes) -> tuple[torch.Tensor, ...]:
    """Seeded inputs in float32; a mask keeps all tokens of the first row and drops two of the last."""
    generator = torch.Generator().manual_seed(3)

    def values(tensor: Tensor) -> torch.Tensor:
        shape = tensor.at(at)
        match tensor.kind:
            case Kind.INT64:
                return torch.randint(0, 1000, shape, generator=generator)
            case Kind.BOOL:
                mask = torch.ones(shape, dtype=torch.bool)
                mask[-1, -2:] = False
                return mask
            case Kind.FLOAT32:
                return torch.rand(shape, generator=generator)
            case Kind.REAL:
                return torch.randn(shape, generator=generator)

    return tuple(values(tensor) for tensor in component.inputs)


def _session(graph: onnx.ModelProto, module: nn.Module) -> onnxruntime.InferenceSession:
    """The graph with the module's weights, which stay where they are."""
    state = module.state_dict()
    names = list(parameters(graph))
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(state[name].contiguous().numpy()) for name in names]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_external_initializers(names, values)
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _both(
    component: ComponentSpec, graph: onnx.ModelProto, module: nn.Module, buckets: tuple[Sizes, ...]
) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
    session = _session(graph, module)
    found = []
    for sizes in buckets:
        inputs = _inputs_of(component, sizes)
        expected = module(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        feeds = {tensor.name: value.numpy() for tensor, value in zip(component.inputs, inputs, strict=True)}
        found.append((session.run(None, feeds), [value.numpy() for value in expected]))
    return found


@pytest.fixture
def small_module() -> Callable[[ComponentSpec], nn.Module]:
    return _small_module


@pytest.fixture
def graph_and_pytorch() -> Callable[..., Any]:
    """Results of a graph and of the module it came from, in several buckets."""
    return _both


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield
