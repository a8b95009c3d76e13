"""Stable Diffusion 1 and 2 with their inpainting variants, and SDXL: one U-Net in several sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from trt_engines.architectures import stable_diffusion as facts
from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.ports import Ports
from trt_engines.modules.autoencoders import (
    SDXL_VAE_DECODER,
    SDXL_VAE_ENCODER,
    STABLE_DIFFUSION_VAE_DECODER,
    STABLE_DIFFUSION_VAE_ENCODER,
)
from trt_engines.modules.library_module import LibraryModule
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.text_encoders import CLIP_L_LAYERS, CLIP_L_UNNORMED, OPEN_CLIP_BIGG, OPEN_CLIP_H

ANY_SIDE = 31
"""Halvings that no side is a multiple of."""


class Denoiser(LibraryModule):
    """The library's U-Net for latents of any size.

    A level of n positions has ceil(n / 2) below it. The library brings what comes up to the size of what was kept on
    the way down only where a latent's side is no multiple of all halvings together, and doubles it otherwise, which is
    the same. One graph serves all sizes, so here it is always the former, as in ComfyUI.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        model.num_upsamplers = ANY_SIDE  # decides that, and nothing else


class UNetDenoiser(Denoiser):
    """Noise, or velocity where the family predicts it.

    sample [rows, 4, h, w], timestep [rows] of the 1000 training steps, context [rows, tokens, width] -> noise_pred
    [rows, 4, h, w].
    """

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        predicted: torch.Tensor = self.model(sample, timestep, context, return_dict=False)[0]
        return predicted


class InpaintingDenoiser(Denoiser):
    """As `UNetDenoiser`, with mask [rows, 1, h, w] (1: to be painted) and masked_latent [rows, 4, h, w].

    They are inputs of their own, so that `sample` stays the state that samplers step.
    """

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        mask: torch.Tensor,
        masked_latent: torch.Tensor,
    ) -> torch.Tensor:
        states = torch.cat([sample, mask, masked_latent], dim=1)
        predicted: torch.Tensor = self.model(states, timestep, context, return_dict=False)[0]
        return predicted


class Sinusoid(nn.Module):
    """The library's embedding of numbers, brought to the type that it is joined with.

    The library joins float32 with the pooled prompt's type and lets the wider one decide; TensorRT has no such rule.
    """

    def __init__(self, embedding: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding, self.dtype = embedding, dtype

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.embedding(numbers)
        return embedded.to(self.dtype)


class SdxlDenoiser(Denoiser):
    """As `UNetDenoiser`, with pooled [rows, 1280] and time_ids float32 [rows, 6]."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        model.add_time_proj = Sinusoid(model.add_time_proj, model.dtype)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        pooled: torch.Tensor,
        time_ids: torch.Tensor,
    ) -> torch.Tensor:
        more = {"text_embeds": pooled, "time_ids": time_ids}
        predicted: torch.Tensor = self.model(sample, timestep, context, added_cond_kwargs=more, return_dict=False)[0]
        return predicted


def make_denoiser(config: Mapping[str, Any]) -> nn.Module:
    """The denoiser of a configuration of `UNet2DConditionModel`."""
    return UNetDenoiser(UNet2DConditionModel(**config)).eval()


def make_inpainting_denoiser(config: Mapping[str, Any]) -> nn.Module:
    """The inpainting denoiser of a configuration of `UNet2DConditionModel`."""
    return InpaintingDenoiser(UNet2DConditionModel(**config)).eval()


def make_sdxl_denoiser(config: Mapping[str, Any]) -> nn.Module:
    """SDXL's denoiser of a configuration of `UNet2DConditionModel`."""
    return SdxlDenoiser(UNet2DConditionModel(**config)).eval()


def _ports(config: Mapping[str, Any]) -> Ports:
    return facts.unet_ports(config["cross_attention_dim"])


def _inpainting_ports(config: Mapping[str, Any]) -> Ports:
    return facts.inpainting_ports(config["cross_attention_dim"])


def _sdxl_ports(config: Mapping[str, Any]) -> Ports:
    pooled = config["projection_class_embeddings_input_dim"] - facts.TIME_IDS * config["addition_time_embed_dim"]
    return facts.sdxl_ports(config["cross_attention_dim"], pooled)


_SD1: dict[str, Any] = {"cross_attention_dim": 768, "block_out_channels": (320, 640, 1280, 1280)}
_SD2: dict[str, Any] = _SD1 | {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
_INPAINTING = {"in_channels": 9}
_SMALL: dict[str, Any] = {
    "block_out_channels": (16, 32),  # tracing takes its time by blocks
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
_SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_SMALL_SDXL: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (2, 4),
    "cross_attention_dim": 32,
    "norm_num_groups": 8,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
}


def _denoiser(
    architecture: Architecture,
    make: Callable[[Mapping[str, Any]], nn.Module],
    ports: Callable[[Mapping[str, Any]], Ports],
    config: Mapping[str, Any],
    small: Mapping[str, Any],
) -> ModuleSpec:
    return ModuleSpec(
        network=architecture.network("denoiser"),
        make=make,
        config=config,
        small_config={**config, **small},
        ports=ports,
    )


_VAE = (STABLE_DIFFUSION_VAE_DECODER, STABLE_DIFFUSION_VAE_ENCODER)
_SMALL_PAINTER = _SMALL | _INPAINTING

MODULES = {
    "stable_diffusion_1": (
        CLIP_L_LAYERS,
        _denoiser(facts.STABLE_DIFFUSION_1, make_denoiser, _ports, _SD1, _SMALL),
        *_VAE,
    ),
    "stable_diffusion_1_inpainting": (
        CLIP_L_LAYERS,
        _denoiser(
            facts.STABLE_DIFFUSION_1_INPAINTING,
            make_inpainting_denoiser,
            _inpainting_ports,
            _SD1 | _INPAINTING,
            _SMALL_PAINTER,
        ),
        *_VAE,
    ),
    "stable_diffusion_2": (
        OPEN_CLIP_H,
        _denoiser(facts.STABLE_DIFFUSION_2, make_denoiser, _ports, _SD2, _SMALL),
        *_VAE,
    ),
    "stable_diffusion_2_v": (
        OPEN_CLIP_H,
        _denoiser(facts.STABLE_DIFFUSION_2_V, make_denoiser, _ports, _SD2, _SMALL),
        *_VAE,
    ),
    "stable_diffusion_2_inpainting": (
        OPEN_CLIP_H,
        _denoiser(
            facts.STABLE_DIFFUSION_2_INPAINTING,
            make_inpainting_denoiser,
            _inpainting_ports,
            _SD2 | _INPAINTING,
            _SMALL_PAINTER,
        ),
        *_VAE,
    ),
    "sdxl": (
        CLIP_L_UNNORMED,
        OPEN_CLIP_BIGG,
        _denoiser(facts.SDXL, make_sdxl_denoiser, _sdxl_ports, _SDXL, _SMALL_SDXL),
        SDXL_VAE_DECODER,
        SDXL_VAE_ENCODER,
    ),
}
