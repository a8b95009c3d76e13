"""Small random models of the Stable Diffusion family, as diffusers folders and as diffusers' own modules.

Weights are scaled so that a wrong prompt, layer, size or seed gives a picture that looks wrong: with weights as they
are drawn, everything looks like the same grey.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from trt_engines.modules.registry import module_of

ARCHITECTURES = (
    "stable_diffusion_1",
    "stable_diffusion_2",
    "stable_diffusion_2_v",
    "sdxl",
    "stable_diffusion_1_inpainting",
    "stable_diffusion_2_inpainting",
)

CONTRAST = 0.6
"""Standard deviation of pixels, whose range is -1..1."""

TEXT_GAIN, ADDED_GAIN = 2.0, 2.0
"""How much stronger than by chance the text, and SDXL's pooled prompt and sizes, act on the denoiser. Not on what
tokens attend to: saturated attention is chaos, in which the last bit of a guidance scale changes the picture."""

_LAYERS = 3
_TEXT: Mapping[str, Any] = {
    "vocab_size": 49408,
    "intermediate_size": 64,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomModel:
    """A model as diffusers has it, in float32."""

    architecture: str
    folder: Path
    text_encoders: tuple[Any, ...]
    denoiser: Any
    autoencoder: Any


def a_random_model(architecture: str, folder: Path, seed: int = 0) -> RandomModel:
    """Make a model and write it as a diffusers folder."""
    torch.manual_seed(seed)
    xl = architecture == "sdxl"
    denoiser = UNet2DConditionModel(**module_of(architecture, "denoiser").small_config)
    autoencoder = AutoencoderKL(**module_of(architecture, "vae_decoder").small_config)
    if xl:
        first = CLIPTextModel(CLIPTextConfig(**_TEXT, hidden_size=16, hidden_act="quick_gelu"))
        second = CLIPTextModelWithProjection(
            CLIPTextConfig(**_TEXT, hidden_size=16, hidden_act="gelu", projection_dim=32)
        )
        encoders: tuple[Any, ...] = (first, second)
    else:
        act = "quick_gelu" if "diffusion_1" in architecture else "gelu"
        encoders = (CLIPTextModel(CLIPTextConfig(**_TEXT, hidden_size=32, hidden_act=act)),)
    for module in (denoiser, autoencoder, *encoders):
        _enliven(module)
    _strengthen(denoiser)
    _calibrate(denoiser, autoencoder)
    for name, module in zip(("text_encoder", "text_encoder_2"), encoders, strict=False):
        module.save_pretrained(folder / name)
    denoiser.save_pretrained(folder / "unet")
    autoencoder.save_pretrained(folder / "vae")
    return RandomModel(
        architecture=architecture,
        folder=folder,
        text_encoders=encoders,
        denoiser=denoiser,
        autoencoder=autoencoder,
    )


def _enliven(module: Any) -> None:
    """Draw every weight so that activations keep their size."""
    module.eval().requires_grad_(False)
    for name, weight in module.named_parameters():
        if weight.dim() > 1:
            embedding = "embedding" in name and "token" in name
            weight.copy_(torch.randn_like(weight) * (1.0 if embedding else weight[0].numel() ** -0.5))
        else:
            weight.copy_(torch.randn_like(weight) * 0.1 + (1.0 if name.endswith("weight") else 0.0))


def _strengthen(denoiser: Any) -> None:
    for name, weight in denoiser.named_parameters():
        if ".attn2.to_v." in name:
            weight.mul_(TEXT_GAIN)
        elif name.startswith("add_embedding"):
            weight.mul_(ADDED_GAIN)


def _calibrate(denoiser: Any, autoencoder: Any) -> None:
    """Give the denoiser's output unit size and pictures contrast."""
    config = denoiser.config
    sample = torch.randn(4, config.in_channels, 8, 12)
    added = None
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": torch.randn(4, pooled), "time_ids": torch.full((4, 6), 64.0)}
    context = torch.randn(4, 77, config.cross_attention_dim)
    noise = denoiser(sample, torch.full((4,), 500), context, added_cond_kwargs=added, return_dict=False)[0]
    denoiser.conv_out.weight.div_(noise.std())
    denoiser.conv_out.bias.zero_()
    latent = torch.randn(4, autoencoder.config.latent_channels, 8, 12) / autoencoder.config.scaling_factor
    pixels = autoencoder.decode(latent, return_dict=False)[0]
    autoencoder.decoder.conv_out.weight.mul_(CONTRAST / pixels.std())
    autoencoder.decoder.conv_out.bias.zero_()
    moments = autoencoder.encode(torch.randn(4, 3, 64, 96).clamp(-1, 1)).latent_dist.mode()
    autoencoder.encoder.conv_out.weight.div_(moments.std() * autoencoder.config.scaling_factor)
