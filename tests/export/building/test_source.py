"""Models are opened from all networks in one file, from a file for each, and from diffusers' folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    Krea2Transformer2DModel,
)
from safetensors.numpy import save_file
from transformers import CLIPTextConfig, Qwen3Config, Qwen3VLConfig, T5Config

from trt_engines.architectures.registry import architecture
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.registry import MODULES, module_of
from trt_export.building.source import open_source
from trt_export.checkpoints.checkpoint import FOLDERS
from trt_export.checkpoints.random_checkpoint import describe, parameters_of, random_tensors, write_random
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint, encode_header

DIFFUSERS: Mapping[str, Mapping[str, Any]] = {
    "flux_dev": {"denoiser": FluxTransformer2DModel, "vae": AutoencoderKL},
    "flux2_klein_4b": {"denoiser": Flux2Transformer2DModel, "vae": AutoencoderKLFlux2},
    "krea_2_turbo": {"denoiser": Krea2Transformer2DModel, "vae": AutoencoderKLQwenImage},
}
"""Whose class writes a network's configuration."""
LAYERS = 36
"""Of a published language model: more than are read."""


def a_configuration(name: str, spec: ModuleSpec) -> dict[str, Any]:
    """What the library writes into a network's folder."""
    small = dict(spec.small_config)
    match (name, spec.name):
        case (_, "denoiser" | "vae_decoder" | "vae_encoder" as part):
            kind = DIFFUSERS[name]["denoiser" if part == "denoiser" else "vae"]
            return dict(json.loads(kind(**small).to_json_string()))
        case ("flux_dev", "text_encoder"):
            return dict(CLIPTextConfig(**small).to_dict())
        case ("flux_dev", "text_encoder_2"):
            return dict(T5Config(**small).to_dict())
        case ("krea_2_turbo", "text_encoder"):
            del small["taps"]
            return dict(Qwen3VLConfig(text_config={**small, "num_hidden_layers": LAYERS}).to_dict())
        case _:
            del small["taps"]
            theta = small.pop("rope_parameters")["rope_theta"]  # files of older versions have it like this
            return Qwen3Config(**small).to_dict() | {"rope_theta": theta, "num_hidden_layers": LAYERS}


@pytest.mark.parametrize("name", DIFFUSERS)
def test_a_diffusers_folder_says_how_large_its_networks_are(tmp_path: Path, name: str) -> None:
    for spec in MODULES[name]:
        folder = tmp_path / FOLDERS[spec.name][0]
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(a_configuration(name, spec)))
        (folder / "model.safetensors").write_bytes(encode_header({}))

    source = open_source(str(tmp_path), family=name)

    for spec in MODULES[name]:
        taps = {key: value for key, value in spec.config.items() if key == "taps"}  # in no library's file
        small = spec.configured({**spec.small_config, **taps})
        configured = source.modules[spec.name]
        assert parameters_of(configured) == parameters_of(small), spec.name


def test_a_file_of_all_networks_is_the_full_size_and_told_by_its_denoiser(
    tmp_path: Path, file_with_holes: Callable[..., None]
) -> None:
    file = tmp_path / "flux1-dev-fp8.safetensors"
    file_with_holes(file, describe(random_tensors(architecture("flux_dev")), "float8"))

    source = open_source(str(file))

    assert source.architecture.name == "flux_dev"
    assert source.modules["denoiser"].config["num_layers"] == 19
    assert source.assumption is not None
    assert "flux_krea_dev" in source.assumption
    assert open_source(str(file), family="flux_krea_dev").assumption is None


@pytest.mark.parametrize("there", [24, 23])
def test_a_file_of_stable_diffusion_2_may_lack_the_last_layer_of_its_text_encoder(
    tmp_path: Path, file_with_holes: Callable[..., None], there: int
) -> None:
    file, last = tmp_path / "v2-1_512-ema-pruned.safetensors", "cond_stage_model.model.transformer.resblocks.23."
    described = describe(random_tensors(architecture("stable_diffusion_2")), "float16")
    file_with_holes(file, {name: one for name, one in described.items() if there == 24 or not name.startswith(last)})

    encoder = open_source(str(file)).modules["text_encoder"]

    assert encoder.config["num_hidden_layers"] == there
    assert encoder.outputs[0].shape[0] == 24  # what clip skips count


def test_networks_in_files_of_their_own_are_named(tmp_path: Path) -> None:
    tensors = random_tensors(architecture("z_image_turbo"), small=True)
    files = {}
    for part, prefix in (("denoiser", "model.diffusion_model."), ("text_encoder", "text_encoders."), ("vae", "vae.")):
        files[part] = tmp_path / f"{part}.safetensors"
        own = {key: one for key, one in tensors.items() if key.startswith(prefix)}
        write_random(files[part], own, seed=0, dtype="bfloat16")

    source = open_source(str(files.pop("denoiser")), family="z_image_turbo", networks=files)

    assert {one.file.name for one in source.checkpoint.of("vae_encoder").values()} == {"vae.safetensors"}
    assert source.modules["text_encoder"].config == module_of("z_image_turbo", "text_encoder").config


def test_the_configuration_is_the_one_beside_the_weights_and_not_that_of_a_converted_graph(tmp_path: Path) -> None:
    vae = module_of("flux_dev", "vae_decoder")
    for folder, channels in (("vae_decoder", [1, 2]), ("vae", vae.small_config["block_out_channels"])):
        (tmp_path / folder).mkdir()
        told = a_configuration("flux_dev", vae) | {"block_out_channels": channels}
        (tmp_path / folder / "config.json").write_text(json.dumps(told))
    (tmp_path / "vae_decoder" / "model.onnx").write_bytes(b"")
    (tmp_path / "vae" / "model.safetensors").write_bytes(encode_header({}))

    source = open_source(str(tmp_path), family="flux_dev")

    assert list(source.modules["vae_decoder"].config["block_out_channels"]) == list(
        vae.small_config["block_out_channels"]
    )


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    save_file({}, tmp_path / "transformer" / "model.safetensors")
    (tmp_path / "transformer" / "config.json").write_text("{")

    with pytest.raises(UnreadableCheckpoint, match=r"transformer/config.json cannot be read"):
        open_source(str(tmp_path), family="chroma")
