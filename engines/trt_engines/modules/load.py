"""A module with a model's weights, read from where they lie, without a second copy of them in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from trt_engines.bound_weights import BoundNetwork, BoundTensor, float32_values, stored_values
from trt_engines.errors import EngineFault
from trt_engines.modules.module_spec import ModuleSpec

_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


class WithoutValues(TorchFunctionMode):
    """What is made with torch.empty, as weights are, lies on the meta device: it takes no memory, filling it no time.

    Values that modules compute for themselves (positions, angles, statistics) are made in other ways, and real.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.empty:
            return func(*args, **{**(kwargs or {}), "device": "meta"})
        return func(*args, **(kwargs or {}))


def load_module(spec: ModuleSpec, network: BoundNetwork, device: str, dtype: torch.dtype) -> Any:
    """The module of a network with its weights.

    On the processor, weights of the wanted type stay mapped from their files; others are converted one by one.

    Args:
        spec: of the network, in its own configuration.
        device: PyTorch's name.
        dtype: that it computes with.
    Raises: EngineFault: the network has no place for a weight, or nothing gives a buffer its values. OSError: a file
        cannot be read.
    """
    with default_type(dtype), WithoutValues():
        module = spec.make(spec.config).eval().requires_grad_(False)
    weights = {one.name: one for one in network.tensors}
    values: dict[int, torch.Tensor] = {}  # of meta tensors by identity: tied ones share theirs
    named = list(_named(module))
    for name, tensor in named:
        if (weight := weights.pop(name, None)) is None:
            continue
        if tensor.is_meta:
            values[id(tensor)] = _values(weight, device, dtype)
        else:
            tensor.copy_(_values(weight, "cpu", tensor.dtype))
    if weights:
        raise EngineFault(f"{spec.name}: PyTorch's network has no weights {', '.join(sorted(weights)[:3])}")
    for name, tensor in named:
        if tensor.is_meta:
            _put(module, name, values.get(id(tensor)), tensor, device, dtype)
    return module.to(device)


@contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    """Floating point values are made in this type: converting a module that has no values is not possible."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _named(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """All parameters and buffers; a tied one by each of its names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _put(
    module: Any, name: str, values: torch.Tensor | None, empty: torch.Tensor, device: str, dtype: torch.dtype
) -> None:
    """Give a parameter or buffer its values. A weight that no graph reads is zero: nothing depends on it."""
    folder, _, leaf = name.rpartition(".")
    owner = module.get_submodule(folder)
    if isinstance(empty, nn.Parameter):
        filled = values if values is not None else torch.zeros(empty.shape, dtype=dtype, device=device)
        owner._parameters[leaf] = nn.Parameter(filled, requires_grad=False)
    elif values is not None:
        owner._buffers[leaf] = values
    else:
        raise EngineFault(f"{name}: nothing gives this buffer its values")


def _values(weight: BoundTensor, device: str, dtype: torch.dtype) -> torch.Tensor:
    """A weight on a device, in a type."""
    if weight.scale is not None:
        return torch.from_numpy(float32_values(weight)).to(device, dtype)
    stored = stored_values(weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that mapped values cannot be written: nothing writes weights
        bits = torch.from_numpy(stored.view(_BITS[stored.dtype.itemsize]))
    return bits.view(_TYPES[weight.dtype]).to(device, dtype)
