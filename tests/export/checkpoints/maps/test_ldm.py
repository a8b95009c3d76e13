"""The tables of original Stable Diffusion files hold every weight once, and agree with diffusers' own converters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from trt_engines.modules.registry import MODULES, module_of
from trt_export.checkpoints.keymap import Lookup
from trt_export.checkpoints.maps.ldm import maps
from trt_export.checkpoints.random_checkpoint import parameters_of, published

FAMILIES = (
    "stable_diffusion_1",
    "stable_diffusion_1_inpainting",
    "stable_diffusion_2",
    "stable_diffusion_2_v",
    "stable_diffusion_2_inpainting",
    "sdxl",
)
UNETS: dict[str, dict[str, Any]] = {
    "stable_diffusion_1": {"block_out_channels": (4, 8, 16, 16), "cross_attention_dim": 8},
    "stable_diffusion_2": {
        "block_out_channels": (4, 8, 16, 16),
        "cross_attention_dim": 8,
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (4, 8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 8,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 2,
        "projection_class_embeddings_input_dim": 16,
    },
}
CLIP = {
    "vocab_size": 20, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 7, "projection_dim": 8, "bos_token_id": 18, "eos_token_id": 19,
}  # fmt: skip


def _same(found: dict[str, Any], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        assert torch.equal(found[name].reshape(values.shape), values), name


@pytest.mark.parametrize(
    ("family", "component", "count"),
    [
        ("stable_diffusion_1", "denoiser", 686),
        ("stable_diffusion_1", "text_encoder", 196),
        ("stable_diffusion_1", "vae_decoder", 140),
        ("stable_diffusion_1", "vae_encoder", 108),
        ("stable_diffusion_2", "denoiser", 686),
        ("stable_diffusion_2", "text_encoder", 24 * 12 + 4),
        ("sdxl", "denoiser", 1680),
        ("sdxl", "text_encoder", 196),
        ("sdxl", "text_encoder_2", 32 * 12 + 5),
        ("sdxl", "vae_decoder", 140),
    ],
)
def test_a_full_size_network_has_as_many_tensors_as_the_published_files(
    family: str, component: str, count: int
) -> None:
    parameters = parameters_of(module_of(family, component))

    stored = published(parameters, maps(family, component)[0])

    assert len(stored) == count
    assert sorted(name for one in stored.values() for name in one.parts) == sorted(parameters)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_network_of_a_family_has_a_table(family: str) -> None:
    for spec in MODULES[family]:
        assert maps(family, spec.name), spec.name
    assert maps(family, "denoiser_stage_b") == ()


@pytest.mark.parametrize("family", UNETS)
def test_tables_can_be_read_both_ways(family: str) -> None:
    for spec in MODULES[family]:
        for table in maps(family, spec.name):
            lookup = Lookup(table)
            for name in parameters_of(spec.small):
                place = lookup.by_library(name)
                assert place is not None, (table.layout, name)
                back = lookup.by_stored(place.stored)
                assert back is not None
                assert back.library[place.position] == name


@pytest.mark.parametrize("family", UNETS)
def test_the_denoisers_table_is_what_the_librarys_converter_does(family: str, stored_as: Callable[..., Any]) -> None:
    model = UNet2DConditionModel(attention_head_dim=4, norm_num_groups=4, **UNETS[family])
    (table,) = maps(family, "denoiser")

    _same(convert_ldm_unet_checkpoint(stored_as(model.state_dict(), table), dict(model.config)), model.state_dict())


def test_the_autoencoders_table_is_what_the_librarys_converter_does(stored_as: Callable[..., Any]) -> None:
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 8, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
    )
    stored = stored_as(model.state_dict(), maps("stable_diffusion_1", "vae_decoder")[0])

    assert len(stored) == 248
    _same(convert_ldm_vae_checkpoint(stored, dict(model.config)), model.state_dict())


def test_the_second_text_encoders_table_is_what_the_librarys_converter_does(stored_as: Callable[..., Any]) -> None:
    model = CLIPTextModelWithProjection(CLIPTextConfig(**CLIP))
    state = dict(model.state_dict())
    stored = stored_as(state, maps("sdxl", "text_encoder_2")[0])

    converted = convert_open_clip_checkpoint(
        SimpleNamespace(config=model.config), stored, prefix="conditioner.embedders.1.model."
    )

    _same(converted, state)


def test_the_text_encoder_of_version_2_is_found_in_both_layouts(
    tmp_path: Path, stored_as: Callable[..., Any], binds_to: Callable[..., Any]
) -> None:
    state = dict(CLIPTextModel(CLIPTextConfig(**CLIP)).state_dict())
    original, library = maps("stable_diffusion_2", "text_encoder")
    stored = stored_as(state, original)
    converted = convert_open_clip_checkpoint(SimpleNamespace(config=SimpleNamespace(hidden_size=8)), stored)

    _same({name.removeprefix("text_model."): values for name, values in converted.items()}, state)
    for table, more in ((original, "cond_stage_model.model.text_projection"), (library, "logit_scale")):
        tensors = stored_as(state, table) | {more: torch.zeros(8, 8)}
        binds_to(tmp_path / "w.safetensors", tensors, state, (original, library))


@pytest.mark.parametrize("prefix", maps("stable_diffusion_1", "text_encoder")[0].prefixes)
def test_the_text_encoder_of_version_1_is_found_behind_every_prefix(
    tmp_path: Path, prefix: str, stored_as: Callable[..., Any], binds_to: Callable[..., Any]
) -> None:
    state = dict(CLIPTextModel(CLIPTextConfig(**CLIP)).state_dict())
    tensors = stored_as(state, maps("stable_diffusion_1", "text_encoder")[0], prefix)
    tensors[f"{prefix}embeddings.position_ids"] = torch.arange(7)

    binds_to(tmp_path / "w.safetensors", tensors, state, maps("stable_diffusion_1", "text_encoder"))


def test_each_text_encoder_of_one_file_is_found_among_the_other_ones_weights(
    tmp_path: Path, stored_as: Callable[..., Any], binds_to: Callable[..., Any]
) -> None:
    first = dict(CLIPTextModel(CLIPTextConfig(**CLIP)).state_dict())
    second = dict(CLIPTextModelWithProjection(CLIPTextConfig(**CLIP)).state_dict())
    tensors = stored_as(first, maps("sdxl", "text_encoder")[0]) | stored_as(second, maps("sdxl", "text_encoder_2")[0])

    binds_to(tmp_path / "w.safetensors", tensors, first, maps("sdxl", "text_encoder"))
    binds_to(tmp_path / "w.safetensors", tensors, second, maps("sdxl", "text_encoder_2"))


@pytest.mark.parametrize("table", range(3))
def test_an_autoencoder_is_found_in_its_three_layouts_with_attention_as_convolutions_or_not(
    tmp_path: Path, table: int, stored_as: Callable[..., Any], binds_to: Callable[..., Any]
) -> None:
    state = dict(
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(2, 4, 4, 4),
            layers_per_block=2,
            norm_num_groups=2,
        ).state_dict()
    )
    tables = maps("sdxl", "vae_decoder")
    tensors = stored_as(state, tables[table]) if table < len(tables) else dict(state)
    for name in tensors:
        if "mid.attn_1" in name and tensors[name].ndim == 2:
            tensors[name] = tensors[name][:, :, None, None]

    binds_to(tmp_path / "w.safetensors", tensors, state, tables)
