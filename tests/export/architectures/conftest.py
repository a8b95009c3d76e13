"""Small networks with lively weights, and their graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trt_export.architectures.architecture import Axis, ComponentSpec, Kind, Quantity, Tensor

Sizes = Mapping[Quantity, int]


def _small_module(component: ComponentSpec) -> nn.Module:
    """The small configuration, seeded, with no weight left at its trivial start."""
    torch.manual_seed(7)
    module = component.make(component.small_config)
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


def _inputs_of(component: ComponentSpec, at: Sizes, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Seeded inputs; a mask keeps all tokens of the first row and drops two of the last."""
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
                return torch.randn(shape, generator=generator).to(dtype)

    return tuple(values(tensor) for tensor in component.inputs)


def _dynamic_shapes(component: ComponentSpec) -> tuple[dict[int, Any], ...]:
    """The dynamic axes of each input, one `Dim` per name."""
    dims: dict[str, Any] = {}

    def dim(axis: Axis) -> Any:
        if axis.name not in dims:
            base = torch.export.Dim(f"{axis.name}_{axis.multiple}", min=1, max=4096)
            dims[axis.name] = axis.multiple * base if axis.multiple > 1 else base
        return dims[axis.name]

    return tuple(
        {place: dim(part) for place, part in enumerate(tensor.shape) if isinstance(part, Axis)}
        for tensor in component.inputs
    )


def _export(component: ComponentSpec, module: nn.Module, at: Sizes, file: Path, dtype: torch.dtype) -> Path:
    """Write the graph of `module` with its weights beside it."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            module,
            _inputs_of(component, at, dtype),
            dynamo=True,
            input_names=[tensor.name for tensor in component.inputs],
            output_names=[tensor.name for tensor in component.outputs],
            dynamic_shapes=_dynamic_shapes(component),
            opset_version=20,
            verbose=False,
        )
        assert program is not None
        program.save(str(file), external_data=True)
    return file


@pytest.fixture
def small_module() -> Callable[[ComponentSpec], nn.Module]:
    return _small_module


@pytest.fixture
def inputs_of() -> Callable[..., tuple[torch.Tensor, ...]]:
    return _inputs_of


@pytest.fixture
def export_small() -> Callable[..., Path]:
    return _export


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield
