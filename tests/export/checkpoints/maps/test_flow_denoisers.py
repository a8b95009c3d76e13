"""The tables of the flow transformers hold every weight once, and agree with diffusers' own converters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_chroma_transformer_checkpoint_to_diffusers,
    convert_flux2_transformer_checkpoint_to_diffusers,
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_krea2_transformer_checkpoint_to_diffusers,
    convert_z_image_transformer_checkpoint_to_diffusers,
)

from trt_engines.architectures.registry import ARCHITECTURES
from trt_engines.modules.registry import MODULES, module_of
from trt_export.checkpoints.keymap import Lookup
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.random_checkpoint import parameters_of, published

FLOWS = [entry.name for entry in ARCHITECTURES if entry.prediction == "flow"]
CONVERTERS = {
    "flux_schnell": convert_flux_transformer_checkpoint_to_diffusers,
    "flux_dev": convert_flux_transformer_checkpoint_to_diffusers,
    "chroma": convert_chroma_transformer_checkpoint_to_diffusers,
    "z_image_turbo": convert_z_image_transformer_checkpoint_to_diffusers,
    "flux2_klein_4b": convert_flux2_transformer_checkpoint_to_diffusers,
    "krea_2_turbo": convert_krea2_transformer_checkpoint_to_diffusers,
}
TENSORS = {
    "flux_schnell": 776,
    "flux_dev": 780,
    "chroma": 643,
    "z_image_turbo": 453,
    "flux2_klein_4b": 149,
    "krea_2_turbo": 430,
}
Fixture = Callable[..., Any]


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_table_is_what_the_librarys_converter_does(name: str, stored_as: Fixture, thin_state: Fixture) -> None:
    state = thin_state(module_of(name, "denoiser"))  # full size: converters have its widths in them
    table = key_maps(name, "denoiser")[0]

    # Without a prefix: FLUX.2's converter leaves that to its caller.
    converted = CONVERTERS[name](stored_as(state, table, ""))

    assert set(converted) == set(state)
    for weight, values in state.items():
        assert torch.equal(converted[weight], values), weight


@pytest.mark.parametrize("name", TENSORS)
def test_a_full_size_denoiser_has_as_many_tensors_as_the_published_file(name: str) -> None:
    stored = published(parameters_of(module_of(name, "denoiser")), key_maps(name, "denoiser")[0])

    assert len(stored) == TENSORS[name]


@pytest.mark.parametrize("name", FLOWS)
def test_every_network_has_a_table_that_can_be_read_both_ways(name: str) -> None:
    for spec in MODULES[name]:
        assert key_maps(name, spec.name), spec.name
        for table in key_maps(name, spec.name):
            lookup = Lookup(table)
            for weight in parameters_of(spec.small):
                place = lookup.by_library(weight)
                assert place is not None, (table.layout, weight)
                back = lookup.by_stored(place.stored)
                assert back is not None
                assert back.library[place.position] == weight


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_denoiser_is_found_in_every_layout_behind_every_prefix(
    tmp_path: Path, name: str, stored_as: Fixture, thin_state: Fixture, binds_to: Fixture
) -> None:
    state, tables = thin_state(module_of(name, "denoiser").small), key_maps(name, "denoiser")

    for table in tables:
        for prefix in table.prefixes:
            binds_to(tmp_path / "w.safetensors", stored_as(state, table, prefix), state, tables)
    binds_to(tmp_path / "w.safetensors", state, state, tables)


def test_what_krea_2s_distilled_file_still_has_from_before_is_known_as_unused() -> None:
    assert Lookup(key_maps("krea_2_turbo", "denoiser")[0]).is_unused("last.up.weight")
