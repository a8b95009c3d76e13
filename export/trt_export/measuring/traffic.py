"""How many kernels a network starts and what they read and write, counted without computing it.

    python -m trt_export.measuring.traffic ARCHITECTURE NETWORK

prints the constants of `trt_engines.costs.work`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trt_engines.modules.module_spec import ModuleSpec
from trt_export.measuring.measure import meta_inputs, meta_module

_FUSION_ENDS = frozenset(
    {"convolution", "addmm", "mm", "bmm", "baddbmm", "native_group_norm", "native_layer_norm", "_fused_rms_norm"}
)
"""Operations that read and write memory whatever a compiler fuses around them."""

_NO_WORK = frozenset({"empty", "empty_like", "arange", "detach"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """One row of one call at two bytes a value, weights left out."""

    kernels: int  # matrix products, convolutions, attention, normalisations
    bytes: int  # that those read and write
    operations: int  # everything that is no view
    unfused_bytes: int


class _Attention(TorchFunctionMode):
    """Attention as one kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.bytes = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3] if len(args) >= 3 else ((kwargs or {})[name] for name in ("query", "key", "value"))
        self.calls += 1
        self.bytes += sum(_size(tensor) for tensor in (query, key, value, query))
        return torch.empty_like(query)


class _Operations(TorchDispatchMode):
    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights = weights
        self.kernels = self.bytes = self.operations = self.unfused_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        read, written = list(_tensors(args)), list(_tensors(result))
        storages = {_storage(tensor) for tensor in read}
        if name in _NO_WORK or all(_storage(tensor) in storages for tensor in written):
            return result
        moved = sum(_size(tensor) for tensor in read if _storage(tensor) not in self.weights)
        moved += sum(_size(tensor) for tensor in written)
        self.operations += 1
        self.unfused_bytes += moved
        if name in _FUSION_ENDS:
            self.kernels += 1
            self.bytes += moved
        return result


def traffic(spec: ModuleSpec, module: torch.nn.Module, *, width: int, height: int, tokens: int) -> Traffic:
    """Count one row. Args: module: of `measure.meta_module`. width, height: pixels."""
    weights = {_storage(weight) for weight in (*module.parameters(), *module.buffers())}
    inputs = meta_inputs(spec, width=width, height=height, tokens=tokens)
    with torch.no_grad(), _Attention() as attention, _Operations(weights) as counted:
        module(*inputs)
    return Traffic(
        kernels=counted.kernels + attention.calls,
        bytes=counted.bytes + attention.bytes,
        operations=counted.operations + attention.calls,
        unfused_bytes=counted.unfused_bytes + attention.bytes,
    )


def linear_in_cells(small: Traffic, large: Traffic, cells: tuple[float, float]) -> dict[str, float]:
    """Bytes as `fixed + per_cell * cells` through two counts."""

    def through(read: Callable[[Traffic], int]) -> tuple[float, float]:
        slope = (read(large) - read(small)) / (cells[1] - cells[0])
        return read(small) - slope * cells[0], slope

    fixed, slope = through(lambda counted: counted.bytes)
    unfused_fixed, unfused_slope = through(lambda counted: counted.unfused_bytes)
    return {
        "bytes_fixed": fixed,
        "bytes_per_cell": slope,
        "unfused_bytes_fixed": unfused_fixed,
        "unfused_bytes_per_cell": unfused_slope,
    }


def _tensors(values: Any) -> Any:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _size(tensor: torch.Tensor) -> int:
    size: int = tensor.numel() * tensor.element_size()
    return size


def _storage(tensor: torch.Tensor) -> int:
    number: int = tensor.untyped_storage()._cdata
    return number


def main() -> None:
    """Print the constants of one network."""
    from trt_engines.modules.registry import module_of

    parser = argparse.ArgumentParser(description="Count what a network moves.")
    parser.add_argument("architecture")
    parser.add_argument("network")
    options = parser.parse_args()
    spec = module_of(options.architecture, options.network)
    made = meta_module(spec)
    small, large = (traffic(spec, made, width=side, height=side, tokens=77) for side in (512, 1024))
    sys.stdout.write(f"kernels={small.kernels}, operations={small.operations}, bytes={small.bytes}, ")
    sys.stdout.write(f"unfused_bytes={small.unfused_bytes}\n")
    if cell := spec.network.cost.cell:
        line = linear_in_cells(small, large, ((512 / cell) ** 2, (1024 / cell) ** 2))
        sys.stdout.write(", ".join(f"{name}={value:_.0f}" for name, value in line.items()) + "\n")


if __name__ == "__main__":
    main()
