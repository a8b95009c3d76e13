"""Inputs of the right shapes and types, for tracing a network and for counting what it costs."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from trt_export.modules.architecture import ComponentSpec, Kind, Quantity


def example_inputs(
    component: ComponentSpec, sizes: Mapping[Quantity, int], dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """Inputs of a bucket without meaning: ones, which are true where a tensor is a mask; on the default device."""
    kinds = {Kind.REAL: dtype, Kind.FLOAT32: torch.float32, Kind.INT64: torch.int64, Kind.BOOL: torch.bool}
    return tuple(torch.ones(tensor.at(sizes), dtype=kinds[tensor.kind]) for tensor in component.inputs)
