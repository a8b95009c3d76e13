"""What one evaluation of a network costs, counted without computing it: the source of every entry's `Cost`.

    python -m trt_export.measuring.measure [ARCHITECTURE...]

prints the constants of each network. Modules live on the meta device, so a full-size one takes no memory.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from trt_engines.architectures.axis import Quantity
from trt_engines.architectures.cost import Cost
from trt_engines.modules.module_spec import ModuleSpec
from trt_export.graphs.examples import example_inputs


class _Live(TorchDispatchMode):
    """Follows how many bytes of results are alive, and the most there were."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.now = self.most = 0
        weights = (*module.parameters(), *module.buffers())
        self._seen = {weight.untyped_storage()._cdata for weight in weights}  # views of weights are no results

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, torch.Tensor):
                self._follow(part.untyped_storage())
        return result

    def _follow(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class _FusedAttention(TorchFunctionMode):
    """Attention that never holds its scores, as every kernel of an engine; on the meta device they would be there."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def meta_module(spec: ModuleSpec) -> torch.nn.Module:
    """The full-size network on the meta device."""
    with torch.device("meta"):
        module: torch.nn.Module = spec.make(spec.config)
    return module.to(torch.bfloat16)


def meta_inputs(spec: ModuleSpec, *, width: int, height: int, tokens: int) -> tuple[torch.Tensor, ...]:
    """Inputs of one row of a bucket."""
    sizes = {Quantity.ROWS: 1, Quantity.WIDTH: width, Quantity.HEIGHT: height, Quantity.TOKENS: tokens}
    with torch.device("meta"):
        return example_inputs(spec, sizes, torch.bfloat16)


def flops(spec: ModuleSpec, module: torch.nn.Module, *, width: int, height: int, tokens: int) -> float:
    """FLOPs of one row, matrix products, convolutions and attention, a multiply-add counting as two."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(*meta_inputs(spec, width=width, height=height, tokens=tokens))
    return float(counter.get_total_flops())


def activation_bytes(spec: ModuleSpec, module: torch.nn.Module, *, width: int, height: int, tokens: int) -> float:
    """The most bytes of results that are alive at once in plain PyTorch with fused attention, one row in bfloat16."""
    inputs = meta_inputs(spec, width=width, height=height, tokens=tokens)
    with torch.no_grad(), _FusedAttention(), _Live(module) as live:
        module(*inputs)
    return float(live.most)


def fitted(spec: ModuleSpec, *, base: int = 128, tokens: int = 64) -> Cost:
    """The polynomial through counts at a few sizes.

    Args: base: pixels along the side of the smallest picture, tokens: of the shortest text; both as small as the
        networks allow without rounding up, so that counting is quick.
    """
    module = meta_module(spec)
    cell = spec.network.cost.cell
    grid = [(side * base, length * tokens) for side in (1, 2, 4) for length in (1, 2, 4)]
    terms: list[tuple[str, Callable[[float, float], float]]] = [("fixed", lambda cells, length: 1.0)]
    if cell:
        terms += [("per_cell", lambda cells, length: cells), ("per_cell_squared", lambda cells, length: cells**2)]
    if spec.network.sees(Quantity.TOKENS):
        terms += [("per_token", lambda cells, length: length), ("per_token_squared", lambda cells, length: length**2)]
        if cell:
            terms.append(("per_cell_token", lambda cells, length: cells * length))
    points = [((side / cell) ** 2 if cell else 0.0, float(length)) for side, length in grid]
    counts = [flops(spec, module, width=side, height=side, tokens=length) for side, length in grid]
    system = np.array([[term(*point) for _, term in terms] for point in points])
    scale = np.abs(system).max(axis=0)
    found = np.linalg.lstsq(system / scale, np.array(counts), rcond=None)[0] / scale
    coefficients = {name: float(round(value)) for (name, _), value in zip(terms, found, strict=True)}
    return Cost(cell=cell, **coefficients, **_activations(spec, module))


def _activations(spec: ModuleSpec, module: torch.nn.Module) -> dict[str, float]:
    """Bytes per cell and per token, from what a large picture and a long text add."""

    def most(side: int, tokens: int) -> float:
        return activation_bytes(spec, module, width=side, height=side, tokens=tokens)

    found: dict[str, float] = {}
    cell = spec.network.cost.cell
    if cell:
        found["activation_bytes_per_cell"] = float(round(most(1024, 64) / (1024 / cell) ** 2))
    if spec.network.sees(Quantity.TOKENS):
        found["activation_bytes_per_token"] = float(round((most(1024, 512) - most(1024, 256)) / 256))
    return found


def main() -> None:
    """Print the constants of the named architectures, of all without a name."""
    from trt_engines.architectures.registry import architecture
    from trt_engines.modules.registry import MODULES

    parser = argparse.ArgumentParser(description="Count what networks cost.")
    parser.add_argument("names", nargs="*")
    for family in [architecture(name).name for name in parser.parse_args().names] or MODULES:
        for spec in MODULES[family]:
            parameters = sum(weight.numel() for weight in meta_module(spec).parameters())
            cost = ", ".join(f"{name}={value:_.0f}" for name, value in asdict(fitted(spec)).items() if value)
            sys.stdout.write(f"{family} {spec.name}: parameters={parameters:_}, {cost}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
