"""Networks' weights as files of a layout have them, and back again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trt_engines.bound_weights import float32_values
from trt_engines.modules.module_spec import ModuleSpec
from trt_export.checkpoints.binding import PREFIX, bind
from trt_export.checkpoints.keymap import Change, KeyMap
from trt_export.checkpoints.random_checkpoint import parameters_of, published
from trt_export.checkpoints.safetensors_file import read_header

State = Mapping[str, torch.Tensor]


def _stored_as(state: State, table: KeyMap, prefix: str | None = None) -> dict[str, torch.Tensor]:
    """A network's weights as the table says that files have them, behind its first prefix if none is named."""
    before = table.prefixes[0] if prefix is None else prefix
    found = {}
    for name, one in published({name: tuple(values.shape) for name, values in state.items()}, table).items():
        joined = torch.cat([state[part] for part in one.parts]) if len(one.parts) > 1 else state[next(iter(one.parts))]
        found[before + name] = _changed(joined, one.change).contiguous()
    return found


def _changed(values: torch.Tensor, change: Change) -> torch.Tensor:
    match change:
        case Change.NONE:
            return values
        case Change.TRANSPOSED:
            return values.T
        case Change.FLATTENED:
            return values.flatten()
        case Change.HALVES_SWAPPED:
            first, second = values.chunk(2)
            return torch.cat([second, first])


def _thin_state(*specs: ModuleSpec) -> dict[str, torch.Tensor]:
    """Seeded values for every parameter, all axes but the first of one element: tables part tensors along no other."""
    generator = torch.Generator().manual_seed(11)
    shapes = {name: shape for spec in specs for name, shape in parameters_of(spec).items()}
    return {name: torch.randn(shape[0], *(1 for _ in shape[1:]), generator=generator) for name, shape in shapes.items()}


def _binds_to(file: Path, tensors: State, state: State, tables: Sequence[KeyMap]) -> None:
    """Fail unless binding a file with `tensors` finds the values of `state`."""
    save_file(dict(tensors), file)
    shapes = {PREFIX + name: tuple(values.shape) for name, values in state.items()}

    bound = bind(shapes, read_header(file), tables, file.with_name("side.safetensors"))

    assert len(bound) == len(state)
    for one in bound:
        assert (float32_values(one) == state[one.name.removeprefix(PREFIX)].numpy()).all(), one.name


@pytest.fixture
def stored_as() -> Callable[..., dict[str, torch.Tensor]]:
    return _stored_as


@pytest.fixture
def thin_state() -> Callable[..., dict[str, torch.Tensor]]:
    return _thin_state


@pytest.fixture
def binds_to() -> Callable[[Path, State, State, Sequence[KeyMap]], None]:
    return _binds_to
