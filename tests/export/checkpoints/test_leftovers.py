"""What whole models have beside the networks that are read is known, so that no published file is refused for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from transformers import (
    CLIPConfig,
    CLIPModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from trt_engines.modules.registry import module_of
from trt_export.checkpoints.binding import PREFIX, check
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.random_checkpoint import parameters_of
from trt_export.checkpoints.safetensors_file import StoredTensor

Make = Callable[[dict[str, Any]], torch.nn.Module]
LAYERS = {"num_hidden_layers": 36}
WHOLE: tuple[tuple[str, str, Make], ...] = (
    ("stable_diffusion_1", "text_encoder", lambda one: CLIPModel(CLIPConfig(text_config=one))),
    ("stable_diffusion_1", "vae_encoder", lambda one: AutoencoderKL(**one)),
    ("sdxl", "text_encoder_2", lambda one: CLIPModel(CLIPConfig(text_config=one, projection_dim=1280))),
    ("stable_cascade", "vae_decoder", lambda one: PaellaVQModel(**one)),
    ("stable_cascade", "vae_encoder", lambda one: PaellaVQModel(**one)),
    ("chroma", "text_encoder", lambda one: T5ForConditionalGeneration(T5Config(**one))),
    ("z_image_turbo", "text_encoder", lambda one: Qwen3ForCausalLM(Qwen3Config(**one | LAYERS))),
    ("flux2_klein_4b", "vae_decoder", lambda one: AutoencoderKLFlux2(**one)),
    (
        "krea_2_turbo",
        "text_encoder",
        lambda one: Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=one | LAYERS)),
    ),
    ("krea_2_turbo", "vae_decoder", lambda one: AutoencoderKLQwenImage(**one)),
    ("krea_2_turbo", "vae_encoder", lambda one: AutoencoderKLQwenImage(**one)),
)


@pytest.mark.parametrize(("name", "component", "make"), [pytest.param(*one, id="-".join(one[:2])) for one in WHOLE])
def test_the_rest_of_a_whole_model_is_known(name: str, component: str, make: Make) -> None:
    spec = module_of(name, component)
    config = {key: value for key, value in spec.config.items() if key != "taps"}
    with torch.device("meta"):
        state = make(config).state_dict()
    tensors = {
        key: StoredTensor(
            file=Path("model.safetensors"),
            name=key,
            dtype="F16",
            shape=tuple(values.shape),
            offset=0,
            length=2 * values.numel(),
        )
        for key, values in state.items()
    }
    parameters = {PREFIX + key: shape for key, shape in parameters_of(spec).items()}

    assert check(parameters, tensors, key_maps(name, component)).types == {"F16"}
