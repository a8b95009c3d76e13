"""Stable Diffusion 1 and 2 with their inpainting variants, and SDXL: one U-Net in several sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from trt_export.modules.architecture import (
    ROWS,
    TOKENS,
    Architecture,
    Axis,
    ComponentSpec,
    Cost,
    Kind,
    Ports,
    Quantity,
    Tensor,
)
from trt_export.modules.autoencoders import (
    SDXL_VAE_DECODER,
    SDXL_VAE_ENCODER,
    STABLE_DIFFUSION_VAE_DECODER,
    STABLE_DIFFUSION_VAE_ENCODER,
)
from trt_export.modules.library_module import LibraryModule
from trt_export.modules.text_encoders import (
    CLIP_L_LAYERS,
    CLIP_L_UNNORMED,
    OPEN_CLIP_BIGG,
    OPEN_CLIP_H,
)

LATENT_CHANNELS = 4
TIME_IDS = 6
"""SDXL's: original height and width, top and left of the crop, target height and width, in pixels."""


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


def _latent(name: str, channels: int) -> Tensor:
    """A latent of any size."""
    sides = (
        Axis(name="height", quantity=Quantity.HEIGHT, unit=8),
        Axis(name="width", quantity=Quantity.WIDTH, unit=8),
    )
    return Tensor(name=name, shape=(ROWS, channels, *sides))


def _tensors(config: Mapping[str, Any]) -> Ports:
    inputs = (
        _latent("sample", LATENT_CHANNELS),
        Tensor(name="timestep", shape=(ROWS,), kind=Kind.FLOAT32),
        Tensor(name="context", shape=(ROWS, TOKENS, config["cross_attention_dim"])),
    )
    return inputs, (_latent("noise_pred", LATENT_CHANNELS),)


def _inpainting_tensors(config: Mapping[str, Any]) -> Ports:
    inputs, outputs = _tensors(config)
    more = (_latent("mask", 1), _latent("masked_latent", LATENT_CHANNELS))
    return (*inputs, *more), outputs


def _sdxl_tensors(config: Mapping[str, Any]) -> Ports:
    inputs, outputs = _tensors(config)
    pooled = config["projection_class_embeddings_input_dim"] - TIME_IDS * config["addition_time_embed_dim"]
    more = (
        Tensor(name="pooled", shape=(ROWS, pooled)),
        Tensor(name="time_ids", shape=(ROWS, TIME_IDS), kind=Kind.FLOAT32),
    )
    return (*inputs, *more), outputs


def _denoiser(
    make: Callable[[Mapping[str, Any]], nn.Module],
    tensors: Callable[[Mapping[str, Any]], Ports],
    config: Mapping[str, Any],
    small: Mapping[str, Any],
    parameters: int,
    cost: Cost,
) -> ComponentSpec:
    inputs, outputs = tensors(config)
    return ComponentSpec(
        name="denoiser",
        make=make,
        config=config,
        small_config={**config, **small},
        inputs=inputs,
        outputs=outputs,
        tensors=tensors,
        parameters=parameters,
        cost=cost,
    )


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

_SD1_COST = Cost(
    cell=8,
    fixed=55_705_600.0,
    per_cell=164_602_880.0,
    per_cell_squared=7_301.0,
    per_token=38_338_560.0,
    per_cell_token=11_280.0,
    activation_bytes_per_cell=16_646.0,
    activation_bytes_per_token=1_536.0,
)
_SD2_COST = replace(_SD1_COST, per_token=51_118_080.0, activation_bytes_per_token=2_048.0)
_SDXL_COST = Cost(
    cell=8,
    fixed=49_807_360.0,
    per_cell=361_620_480.0,
    per_cell_squared=2_800.0,
    per_token=681_574_400.0,
    per_cell_token=25_600.0,
    activation_bytes_per_cell=10_097.0,
    activation_bytes_per_token=4_096.0,
)


def _stable_diffusion(
    name: str,
    title: str,
    denoiser: ComponentSpec,
    text_encoder: ComponentSpec,
    *,
    side: int = 512,
    prediction: str = "epsilon",
) -> Architecture:
    return Architecture(
        name=name,
        title=title,
        prediction=prediction,
        latent_channels=LATENT_CHANNELS,
        latent_scale=8,
        native_pixels=side * side,
        tokens=(77, 154, 231),
        components=(text_encoder, denoiser, STABLE_DIFFUSION_VAE_DECODER, STABLE_DIFFUSION_VAE_ENCODER),
    )


_SD1_DENOISER = _denoiser(make_denoiser, _tensors, _SD1, _SMALL, 859_520_964, _SD1_COST)
_SD2_DENOISER = _denoiser(make_denoiser, _tensors, _SD2, _SMALL, 865_910_724, _SD2_COST)

STABLE_DIFFUSION_1 = _stable_diffusion("stable_diffusion_1", "Stable Diffusion 1.5", _SD1_DENOISER, CLIP_L_LAYERS)
STABLE_DIFFUSION_1_INPAINTING = _stable_diffusion(
    "stable_diffusion_1_inpainting",
    "Stable Diffusion 1.5 Inpainting",
    _denoiser(
        make_inpainting_denoiser, _inpainting_tensors, _SD1 | _INPAINTING, _SMALL | _INPAINTING, 859_535_364, _SD1_COST
    ),
    CLIP_L_LAYERS,
)
STABLE_DIFFUSION_2 = _stable_diffusion("stable_diffusion_2", "Stable Diffusion 2.1 (512)", _SD2_DENOISER, OPEN_CLIP_H)
STABLE_DIFFUSION_2_V = _stable_diffusion(
    "stable_diffusion_2_v",
    "Stable Diffusion 2.1 (768)",
    _SD2_DENOISER,
    OPEN_CLIP_H,
    side=768,
    prediction="v_prediction",
)
STABLE_DIFFUSION_2_INPAINTING = _stable_diffusion(
    "stable_diffusion_2_inpainting",
    "Stable Diffusion 2 Inpainting",
    _denoiser(
        make_inpainting_denoiser, _inpainting_tensors, _SD2 | _INPAINTING, _SMALL | _INPAINTING, 865_925_124, _SD2_COST
    ),
    OPEN_CLIP_H,
)
SDXL = Architecture(
    name="sdxl",
    title="Stable Diffusion XL",
    prediction="epsilon",
    latent_channels=LATENT_CHANNELS,
    latent_scale=8,
    native_pixels=1024 * 1024,
    tokens=(77, 154, 231),
    components=(
        CLIP_L_UNNORMED,
        OPEN_CLIP_BIGG,
        _denoiser(make_sdxl_denoiser, _sdxl_tensors, _SDXL, _SMALL_SDXL, 2_567_463_684, _SDXL_COST),
        SDXL_VAE_DECODER,
        SDXL_VAE_ENCODER,
    ),
    notes={
        "text": "context is both encoders' side by side, 768 + 1280 wide, of the same layer; the last but one unless a"
        " clip skip says otherwise",
        "vae": "half precision overflows in the decoder's widest blocks and gives black pictures",
    },
)
