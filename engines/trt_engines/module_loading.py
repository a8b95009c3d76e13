"""A module with a model's weights, read from where they lie, without a second copy of them in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.overrides import TorchFunctionMode

from trt_engines.bound_weights import BoundNetwork, BoundTensor, blocks, scales, stored_values
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

    On the processor, weights of the wanted type stay mapped from their files; all others are copied or converted one by
    one, on the device. Weights that no graph reads are not bound; they are NaN and take no memory: nothing depends on
    them, and if anything did, it would be seen.

    Args:
        spec: of the network, in its own configuration.
        device: PyTorch's name.
        dtype: that it computes with.
    Raises: EngineFault: the network has no place for a weight, or another shape there, or nothing gives a buffer its
        values. OSError: a file cannot be read.
    """
    with default_type(dtype), WithoutValues():
        module = spec.make(spec.config).eval().requires_grad_(False)
    weights = {one.name: one for one in network.tensors}
    values: dict[int, torch.Tensor] = {}  # of meta tensors by identity: tied ones share theirs
    named = list(named_tensors(module))
    for name, tensor in named:
        if (weight := weights.pop(name, None)) is None:
            continue
        if weight.shape != tuple(tensor.shape):
            raise EngineFault(f"{spec.name}: {name} is {weight.shape}, and {tuple(tensor.shape)} in PyTorch's network")
        if tensor.is_meta:
            values[id(tensor)] = _values(weight, device, tensor.dtype)
        else:
            tensor.copy_(_values(weight, "cpu", tensor.dtype))
    if weights:
        raise EngineFault(f"{spec.name}: PyTorch's network has no weights {', '.join(sorted(weights)[:3])}")
    for name, tensor in named:
        if tensor.is_meta:
            _put(module, name, tensor, values.get(id(tensor)), device)
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


def named_tensors(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """All parameters and buffers; a tied one by each of its names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _put(module: Any, name: str, empty: torch.Tensor, values: torch.Tensor | None, device: str) -> None:
    """Give a parameter or buffer its values; None: it has none."""
    folder, _, leaf = name.rpartition(".")
    owner = module.get_submodule(folder)
    if isinstance(empty, nn.Parameter):
        if values is None:
            values = torch.full((), torch.nan, dtype=empty.dtype, device=device).expand(empty.shape)
        owner._parameters[leaf] = nn.Parameter(values, requires_grad=False)
    elif values is not None:
        owner._buffers[leaf] = values
    else:
        raise EngineFault(f"{name}: nothing gives this buffer its values")


def _values(weight: BoundTensor, device: str, dtype: torch.dtype) -> torch.Tensor:
    """A weight on a device, in a type; where it has scales, multiplied in float32 and rounded once."""
    values = _mapped(stored_values(weight), _TYPES[weight.dtype]).to(device)
    if weight.scale is not None:
        scale = torch.from_numpy(np.array(scales(weight))).to(device)
        values = values.float().reshape(blocks(weight)).mul_(scale).flatten()
    values = values.to(dtype)
    if len(weight.pieces) > 1:
        parts = values.chunk(len(weight.pieces))
        values = torch.cat([parts[place] for place in weight.order])
    return values.reshape(weight.shape)


def _mapped(stored: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
    """Stored values as PyTorch's, which NumPy has no types for, where they lie."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that mapped values cannot be written: nothing writes weights
        return torch.from_numpy(stored.view(_BITS[stored.dtype.itemsize])).view(dtype)
