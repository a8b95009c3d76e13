"""Small networks with lively weights, and inputs for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trt_export.architectures.architecture import ComponentSpec, Kind, Quantity, Tensor
from trt_export.checkpoints.safetensors_file import SIZES, encode_header

Sizes = Mapping[Quantity, int]


def _small_module(component: ComponentSpec) -> nn.Module:
    """The small configuration, seeded, with no weight left at its trivial start."""
    torch.manual_seed(7)
    module = component.make(component.small_config).eval()
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


def _file_with_holes(file: Path, described: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """A safetensors file of these types and shapes whose values take no place on the disk: all are zero."""
    header = encode_header(described)
    with file.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + sum(math.prod(shape) * SIZES[word] for word, shape in described.values()))


@pytest.fixture
def file_with_holes() -> Callable[[Path, Mapping[str, tuple[str, tuple[int, ...]]]], None]:
    return _file_with_holes


@pytest.fixture
def small_module() -> Callable[[ComponentSpec], nn.Module]:
    return _small_module


@pytest.fixture
def inputs_of() -> Callable[..., tuple[torch.Tensor, ...]]:
    return _inputs_of


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield
