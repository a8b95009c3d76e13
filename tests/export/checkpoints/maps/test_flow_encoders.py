"""Text encoders and autoencoders of the flow families in the layouts of their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint, convert_wan_vae_to_diffusers

from trt_engines.modules.registry import module_of
from trt_export.checkpoints.keymap import Lookup
from trt_export.checkpoints.maps import autoencoders, text_encoders
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.random_checkpoint import parameters_of, published

Fixture = Callable[..., Any]
KL = {"down_block_types": [""] * 4, "up_block_types": [""] * 4}  # what the converter reads of a configuration
NETWORKS = [
    ("flux_dev", "text_encoder"),
    ("flux_dev", "text_encoder_2"),
    ("flux_dev", "vae_encoder"),
    ("flux2_klein_4b", "text_encoder"),
    ("flux2_klein_4b", "vae_decoder"),
    ("flux2_klein_4b", "vae_encoder"),
    ("krea_2_turbo", "text_encoder"),
    ("krea_2_turbo", "vae_decoder"),
    ("krea_2_turbo", "vae_encoder"),
]


def both_halves(name: str, thin_state: Fixture) -> dict[str, torch.Tensor]:
    """An autoencoder of full size."""
    state: dict[str, torch.Tensor] = thin_state(module_of(name, "vae_decoder"), module_of(name, "vae_encoder"))
    return state


def same(converted: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> None:
    assert set(converted) == set(state)
    for name, values in state.items():
        assert torch.equal(converted[name].reshape(values.shape), values), name


def test_flux_autoencoders_table_is_what_the_librarys_converter_does(stored_as: Fixture, thin_state: Fixture) -> None:
    state = both_halves("flux_dev", thin_state)
    stored = stored_as(state, autoencoders.FLUX[0])

    assert len(stored) == 244  # of ae.safetensors
    same(convert_ldm_vae_checkpoint(stored, KL), state)


def test_flux2s_autoencoder_is_flux1s_with_quantisers_inside_and_statistics(
    stored_as: Fixture, thin_state: Fixture
) -> None:
    state = both_halves("flux2_klein_4b", thin_state)
    original, saved = (stored_as(state, table, "") for table in autoencoders.FLUX2)

    statistics = {name: original[name] for name in ("bn.running_mean", "bn.running_var")}
    same(convert_ldm_vae_checkpoint(saved, KL) | statistics, state)
    assert {name.replace("encoder.quant", "quant").replace("decoder.post", "post") for name in original} == set(saved)
    assert {"encoder.quant_conv.weight", "decoder.post_quant_conv.bias"} <= set(original)


def test_qwen_images_table_is_what_the_librarys_converter_does(stored_as: Fixture, thin_state: Fixture) -> None:
    state = both_halves("krea_2_turbo", thin_state)
    table = autoencoders.QWEN_IMAGE[0]
    stored = stored_as(state, table, "")
    same(convert_wan_vae_to_diffusers(stored), state)

    # What the library has besides is what frames with a past go through.
    with torch.device("meta"):
        whole = AutoencoderKLQwenImage().state_dict()
    named = {f"{side}coder.{way}samples.{n}.time_conv.weight" for side, way, n in (("en", "down", 5), ("de", "up", 3))}
    assert all("time_conv" in name for name in set(whole) - set(state))
    assert all(Lookup(table).is_unused(name) for name in named)


@pytest.mark.parametrize(("name", "component"), NETWORKS)
def test_a_network_is_found_in_every_layout_behind_every_prefix(
    tmp_path: Path, name: str, component: str, stored_as: Fixture, thin_state: Fixture, binds_to: Fixture
) -> None:
    state, tables = thin_state(module_of(name, component).small), key_maps(name, component)
    state.pop("encoder.embed_tokens.weight", None)  # see the next test

    for table in tables:
        for prefix in table.prefixes:
            binds_to(tmp_path / "w.safetensors", stored_as(state, table, prefix), state, tables)
    binds_to(tmp_path / "w.safetensors", state, state, tables)


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight"])
def test_t5s_embedding_is_found_under_either_of_its_names(
    tmp_path: Path, kept: str, thin_state: Fixture, binds_to: Fixture
) -> None:
    state = thin_state(module_of("chroma", "text_encoder").small)
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    prefix = "text_encoders.t5xxl.transformer."
    dropped = {"shared.weight", "encoder.embed_tokens.weight"} - {kept}
    tensors = {prefix + name: values for name, values in state.items() if name not in dropped}

    binds_to(tmp_path / "w.safetensors", tensors, state, text_encoders.T5_XXL)


def test_a_file_has_tied_parameters_once() -> None:
    stored = published(parameters_of(module_of("chroma", "text_encoder")), text_encoders.T5_XXL[0])

    assert "shared.weight" in stored
    assert "encoder.embed_tokens.weight" not in stored
    assert len(stored) == 219
