"""Inputs of the right shapes and types, for tracing a network and for counting what it costs."""

from __future__ import annotations

import torch

from trt_engines.architectures.axis import Sizes
from trt_engines.architectures.tensor import Kind
from trt_engines.modules.module_spec import ModuleSpec


def example_inputs(spec: ModuleSpec, sizes: Sizes, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Inputs of a bucket without meaning: ones, which are true where a tensor is a mask; on the default device."""
    kinds = {Kind.REAL: dtype, Kind.FLOAT32: torch.float32, Kind.INT64: torch.int64, Kind.BOOL: torch.bool}
    return tuple(torch.ones(tensor.at(sizes), dtype=kinds[tensor.kind]) for tensor in spec.inputs)
