"""A network with lively weights and its graph: computed side by side, and joined as a checkpoint would be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.torch import save_file
from torch import nn

from trt_engines.architectures.axis import Quantity, Sizes
from trt_engines.architectures.tensor import Kind, Tensor
from trt_engines.modules.module_spec import ModuleSpec
from trt_export.checkpoints.binding import bind
from trt_export.checkpoints.safetensors_file import read_header
from trt_export.graphs.bound import bind_graph, link_files
from trt_export.graphs.exporter import TYPES, parameters


def _at(rows: int, width: int, height: int, tokens: int) -> Sizes:
    return {Quantity.ROWS: rows, Quantity.WIDTH: width, Quantity.HEIGHT: height, Quantity.TOKENS: tokens}


BUCKETS: tuple[Sizes, ...] = tuple(_at(rows, *size) for size in ((128, 64, 64), (72, 136, 96)) for rows in (1, 3))
"""Two shapes and two batch sizes, none of them the one that graphs are traced at; the sides of one are odd in latents,
and at each level below."""


def lively_module(spec: ModuleSpec) -> nn.Module:
    """The network of a module's configuration, seeded, with no weight left at its trivial start."""
    torch.manual_seed(7)
    module = spec.make(spec.config).eval()
    with torch.no_grad():
        for weight in module.parameters():
            spread = min(0.05, weight[0].numel() ** -0.5)
            weight.copy_(torch.randn_like(weight) * spread + (0 if weight.dim() > 1 else weight))
        for name, statistic in module.named_buffers():
            if name.endswith("running_mean"):
                statistic.copy_(torch.randn_like(statistic))
            elif name.endswith("running_var"):
                statistic.copy_(torch.rand_like(statistic) + 0.5)
    return module


def inputs_of(spec: ModuleSpec, at: Sizes) -> tuple[torch.Tensor, ...]:
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

    return tuple(values(tensor) for tensor in spec.inputs)


def worst_difference(
    spec: ModuleSpec, graph: onnx.ModelProto, module: nn.Module, buckets: Sequence[Sizes] = BUCKETS
) -> float:
    """Largest error of a float32 graph in ONNX Runtime against the module it came from, with the module's weights.

    Returns: the largest absolute difference of an output over that output's largest absolute value, the worst of all
        outputs and buckets; NaN if any result has one.

    Raises: ValueError: the numbers of outputs differ.
    """
    session = _session(graph, module)
    errors = []
    for sizes in buckets:
        inputs = inputs_of(spec, sizes)
        with torch.no_grad():
            expected = module(*inputs)
        feeds = {tensor.name: value.numpy() for tensor, value in zip(spec.inputs, inputs, strict=True)}
        outputs = expected if isinstance(expected, tuple) else (expected,)
        for one, other in zip(session.run(None, feeds), outputs, strict=True):
            reference = other.numpy()
            errors.append(np.abs(one - reference).max() / np.abs(reference).max())
    return float(np.max(errors))  # NaN if any is


def write_bound(graph: onnx.ModelProto, module: nn.Module, precision: str, folder: Path) -> Path:
    """A graph with the module's weights in a file beside it, as a builder reads it.

    Args:
        precision: of the graph and of the weights that are written.
        folder: an empty one.
    """
    state, checkpoint = module.state_dict(), folder / "module.safetensors"
    contiguous = torch.contiguous_format
    weights = {
        name: torch.clone(state[name].to(TYPES[precision]), memory_format=contiguous) for name in parameters(graph)
    }
    save_file(weights, checkpoint)
    bound = bind_graph(graph, bind(parameters(graph), read_header(checkpoint), (), folder / "side.safetensors"))
    link_files(bound, folder)
    file = folder / "graph.onnx"
    onnx.save(bound.proto, file)
    return file


def _session(graph: onnx.ModelProto, module: nn.Module) -> onnxruntime.InferenceSession:
    """The graph with the module's weights, which stay where they are."""
    state = module.state_dict()
    names = list(parameters(graph))
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(state[name].contiguous().numpy()) for name in names]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # of small networks, threads would only wait for each other
    options.add_external_initializers(names, values)
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
