"""The tensors of a network in one bucket: names, shapes and types as they are bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One bound tensor at the full rows of its bucket."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    row_axis: int = 0

    @property
    def bytes(self) -> int:
        """Size at full rows."""
        return self.bytes_at(self.shape[self.row_axis])

    def bytes_at(self, rows: int) -> int:
        """Size with `rows` rows."""
        return math.prod(self.at(rows)) * self.dtype.itemsize

    def at(self, rows: int) -> tuple[int, ...]:
        """The shape with `rows` rows."""
        return (*self.shape[: self.row_axis], rows, *self.shape[self.row_axis + 1 :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """Inputs and outputs of one network in one bucket. `trt_engines.architectures.ports.Ports.at` makes them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Inputs and outputs."""
        return (*self.inputs, *self.outputs)

    @property
    def bytes(self) -> int:
        """Size of all tensors at full rows."""
        return sum(tensor.bytes for tensor in self.tensors)
