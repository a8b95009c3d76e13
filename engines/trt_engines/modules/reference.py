"""A network with bound weights in float32, in little memory: what engines are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from trt_engines.bound_weights import BoundTensor, float32_values
from trt_engines.modules.module_spec import ModuleSpec


class _WithoutValues(TorchFunctionMode):
    """What is made with torch.empty, as weights are, lies on the meta device: it takes no memory, filling it no time.

    Values that modules compute for themselves (positions, angles, statistics) are made in other ways, and real.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.empty:
            return func(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


class Reference(TorchFunctionMode):
    """PyTorch's network in float32 with bound weights, which are read where they are used, and dropped.

    While this mode is on, whatever takes a parameter on the meta device gets its values. Weights that the graph does
    not read are zero: what comes out does not depend on them.
    """

    def __init__(self, spec: ModuleSpec, weights: Sequence[BoundTensor]) -> None:
        """Raises: ValueError: the network has no place for a weight, or a buffer has no values."""
        super().__init__()
        with _WithoutValues():
            self.module = spec.make(spec.config).eval().requires_grad_(False)
        bound = {one.name: one for one in weights}
        self._weights: dict[int, BoundTensor] = {}
        for name, tensor in _named(self.module):
            weight = bound.pop(name, None)
            if tensor.is_meta and not isinstance(tensor, nn.Parameter):
                raise ValueError(f"{spec.name}: nothing gives the buffer {name} its values")
            if weight is None:
                continue
            if tensor.is_meta:
                self._weights[id(tensor)] = weight
            else:
                tensor.copy_(torch.from_numpy(float32_values(weight)))
        if bound:
            raise ValueError(f"{spec.name}: PyTorch's network has no weights {', '.join(bound)}")

    def outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the network computes."""
        with self, torch.inference_mode():
            given = self.module(*map(torch.from_numpy, inputs))
            return [one.numpy() for one in (given if isinstance(given, tuple) else (given,))]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.device.__get__:
            return torch.device("cpu")
        if func in _OF_THE_SHAPE:
            return func(*args, **(kwargs or {}))
        named = {name: self._read(value) for name, value in (kwargs or {}).items()}
        return func(*(self._read(value) for value in args), **named)

    def _read(self, value: Any) -> Any:
        if isinstance(value, list | tuple) and any(isinstance(one, nn.Parameter) for one in value):
            return type(value)(map(self._read, value))
        if not isinstance(value, nn.Parameter) or not value.is_meta:
            return value
        weight = self._weights.get(id(value))
        return torch.zeros(value.shape) if weight is None else torch.from_numpy(float32_values(weight))


_OF_THE_SHAPE = frozenset(
    {torch.Tensor.shape.__get__, torch.Tensor.dtype.__get__, torch.Tensor.ndim.__get__, torch.Tensor.size}
)
"""What needs no values of a tensor."""


def _named(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All parameters and buffers; a tied one by each of its names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
