"""The networks of shapes-tiny, in Stable Diffusion 1's layout: new ones, and those of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

TRAIN_STEPS = 1000


def make_vae() -> Any:
    """An 8x autoencoder, small enough to draw on a processor."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        mid_block_add_attention=False,
        norm_num_groups=4,  # few: a group loses its mean, and with it the flat colours of plain pictures
        sample_size=128,
        scaling_factor=1.0,
    )


def make_text_encoder() -> Any:
    """CLIP's text model with its real vocabulary and few features."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49_408,
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            bos_token_id=49_406,
            eos_token_id=49_407,
            pad_token_id=49_407,
        )
    )


def make_denoiser() -> Any:
    """A conditional UNet with attention only where the grid is coarse."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def make_model() -> nn.ModuleDict:
    """Text encoder and denoiser, which learn together: `text` and `unet`."""
    return nn.ModuleDict({"text": make_text_encoder(), "unet": make_denoiser()})


def load_model(folder: Path) -> tuple[nn.ModuleDict, Any]:
    """Text encoder with denoiser, and autoencoder, of a model folder in diffusers' layout, in single precision.

    Raises: RuntimeError: the folder's networks are not those of this file.
    """
    model, vae = make_model(), make_vae()
    for network, part in ((model["text"], "text_encoder"), (model["unet"], "unet"), (vae, "vae")):
        (file,) = (folder / part).glob("*.safetensors")
        network.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    vae.register_to_config(scaling_factor=vae.load_config(folder / "vae")["scaling_factor"])
    return model.eval(), vae.eval()


def alphas_cumprod() -> torch.Tensor:
    """Stable Diffusion's noise schedule: float32 [1000]."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TRAIN_STEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()
