"""Autoencoders: latents go in and come out in the denoiser's units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage
from torch import nn
from torch.nn import functional

from trt_engines.architectures import autoencoders as facts
from trt_engines.architectures.network import Network
from trt_engines.modules.library_module import LibraryModule
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.patches import PATCH, attend


class KlDecoder(LibraryModule):
    """latent [rows, channels, h, w] -> pixels [rows, 3, 8h, 8w] in -1..1."""

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        config = self.model.config
        pixels: torch.Tensor = self.model.decode(
            latent / config.scaling_factor + (config.shift_factor or 0.0), return_dict=False
        )[0]
        return pixels


class KlEncoder(LibraryModule):
    """pixels [rows, 3, h, w] in -1..1 -> latent [rows, channels, h/8, w/8]: the posterior's mode."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        config = self.model.config
        mean = _mode(self.model, pixels)
        return (mean - (config.shift_factor or 0.0)) * config.scaling_factor


class Flux2Decoder(LibraryModule):
    """latent [rows, 128, h, w], whitened 2x2 patches of the VAE's 32 channels -> pixels [rows, 3, 16h, 16w] in -1..1.

    Whitening is the autoencoder's BatchNorm; channel 4c + 2y + x is the patch's (c, y, x).
    """

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        mean, deviation = _statistics(self.model)
        patches = (latent.float() * deviation + mean).to(latent.dtype)
        pixels: torch.Tensor = self.model.decode(functional.pixel_shuffle(patches, PATCH), return_dict=False)[0]
        return pixels


class Flux2Encoder(LibraryModule):
    """pixels [rows, 3, h, w] in -1..1 -> latent [rows, 128, h/16, w/16]: the posterior's mode, patched and whitened."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, deviation = _statistics(self.model)
        patches = functional.pixel_unshuffle(_mode(self.model, pixels), PATCH)
        return ((patches.float() - mean) / deviation).to(pixels.dtype)


def _mode(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    moments = model.encoder(pixels)
    if model.quant_conv is not None:
        moments = model.quant_conv(moments)
    mean: torch.Tensor = moments.chunk(2, dim=1)[0]
    return mean


def _statistics(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation per channel of patched latents, float32 [channels, 1, 1]."""
    norm = model.bn
    mean, variance = norm.running_mean.float(), norm.running_var.float()
    return mean[:, None, None], torch.sqrt(variance + norm.eps)[:, None, None]


class QwenImageDecoder(LibraryModule):
    """latent [rows, 16, h, w] -> pixels [rows, 3, 8h, 8w] in -1..1: one frame of a video autoencoder.

    A frame without a past meets zeros in every causal convolution but in the kernel's last slice, so the convolutions
    are flat: a third of the work of the library's own, which carries the zeros along.
    """

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        mean, deviation = _moments(self.model, latent.device)
        decoder = self.model.decoder
        states = (latent.float() * deviation + mean).to(latent.dtype)
        states = _middle(decoder.mid_block, _flat(decoder.conv_in, _flat(self.model.post_quant_conv, states)))
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                states = _residual(resnet, states)
            if block.upsamplers is not None:
                states = block.upsamplers[0].resample(states)
        return _flat(decoder.conv_out, functional.silu(_norm(decoder.norm_out, states))).clamp(-1, 1)


class QwenImageEncoder(LibraryModule):
    """pixels [rows, 3, h, w] in -1..1 -> latent [rows, 16, h/8, w/8]: the posterior's mode; flat as the decoder."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, deviation = _moments(self.model, pixels.device)
        encoder = self.model.encoder
        states = _flat(encoder.conv_in, pixels)
        for block in encoder.down_blocks:
            states = block.resample(states) if hasattr(block, "resample") else _residual(block, states)
        states = functional.silu(_norm(encoder.norm_out, _middle(encoder.mid_block, states)))
        latent = _flat(self.model.quant_conv, _flat(encoder.conv_out, states)).chunk(2, dim=1)[0]
        return ((latent.float() - mean) / deviation).to(pixels.dtype)


def _moments(model: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean, deviation = (
        torch.tensor(list(values), dtype=torch.float32, device=device)[:, None, None]
        for values in (model.config.latents_mean, model.config.latents_std)
    )
    return mean, deviation


def _flat(convolution: Any, states: torch.Tensor) -> torch.Tensor:
    """A causal 3D convolution of a first and only frame."""
    margin = convolution._padding[0]  # of width and height alike; the time axis has zeros for a past
    return functional.conv2d(states, convolution.weight[:, :, -1], convolution.bias, padding=margin)


def _norm(norm: Any, states: torch.Tensor) -> torch.Tensor:
    scaled = functional.normalize(states.float(), dim=1).to(states.dtype) * norm.scale
    weight: torch.Tensor = norm.gamma.reshape(-1, 1, 1)
    return scaled * weight


def _residual(block: Any, states: torch.Tensor) -> torch.Tensor:
    shortcut = block.conv_shortcut
    skipped = states if isinstance(shortcut, nn.Identity) else _flat(shortcut, states)
    states = _flat(block.conv1, functional.silu(_norm(block.norm1, states)))
    return _flat(block.conv2, functional.silu(_norm(block.norm2, states))) + skipped


def _middle(block: Any, states: torch.Tensor) -> torch.Tensor:
    states = _residual(block.resnets[0], states)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        height, width = states.shape[2:]
        tokens = attention.to_qkv(_norm(attention.norm, states)).flatten(2).transpose(1, 2).unsqueeze(2)
        mixed = attend(*tokens.chunk(3, dim=-1))
        states = states + attention.proj(mixed.transpose(1, 2).unflatten(2, (height, width)))
        states = _residual(resnet, states)
    return states


def _halved(model: Any, unused: tuple[str, ...]) -> Any:
    """`model` without the parts that the other direction needs."""
    for name in unused:
        setattr(model, name, None)
    return model.eval()


_DECODING = ("encoder", "quant_conv")
_ENCODING = ("decoder", "post_quant_conv")


def make_kl_decoder(config: Mapping[str, Any]) -> nn.Module:
    """The decoder of a configuration of `AutoencoderKL`."""
    return KlDecoder(_halved(AutoencoderKL(**config), _DECODING)).eval()


def make_kl_encoder(config: Mapping[str, Any]) -> nn.Module:
    """The encoder of a configuration of `AutoencoderKL`."""
    return KlEncoder(_halved(AutoencoderKL(**config), _ENCODING)).eval()


def make_flux2_decoder(config: Mapping[str, Any]) -> nn.Module:
    """The decoder of a configuration of `AutoencoderKLFlux2`."""
    return Flux2Decoder(_halved(AutoencoderKLFlux2(**config), _DECODING)).eval()


def make_flux2_encoder(config: Mapping[str, Any]) -> nn.Module:
    """The encoder of a configuration of `AutoencoderKLFlux2`."""
    return Flux2Encoder(_halved(AutoencoderKLFlux2(**config), _ENCODING)).eval()


def make_qwen_image_decoder(config: Mapping[str, Any]) -> nn.Module:
    """The decoder of a configuration of `AutoencoderKLQwenImage`."""
    return QwenImageDecoder(_without_time(_halved(AutoencoderKLQwenImage(**config), _DECODING))).eval()


def make_qwen_image_encoder(config: Mapping[str, Any]) -> nn.Module:
    """The encoder of a configuration of `AutoencoderKLQwenImage`."""
    return QwenImageEncoder(_without_time(_halved(AutoencoderKLQwenImage(**config), _ENCODING))).eval()


def _without_time(model: Any) -> Any:
    """`model` without the convolutions that only frames with a past go through."""
    for module in model.modules():
        if hasattr(module, "time_conv"):
            module.time_conv = None
    return model


def _pair(
    networks: tuple[Network, Network],
    makers: tuple[Any, Any],
    config: Mapping[str, Any],
    small: Mapping[str, Any],
) -> tuple[ModuleSpec, ModuleSpec]:
    """Decoder and encoder of one autoencoder."""
    decoder, encoder = (
        ModuleSpec(network=network, make=make, config=config, small_config=small)
        for network, make in zip(networks, makers, strict=True)
    )
    return decoder, encoder


_KL: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
_SMALL_KL: dict[str, Any] = {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}
_FLUX_VAE = _KL | {
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
FLUX_VAE_DECODER, FLUX_VAE_ENCODER = _pair(
    (facts.FLUX_VAE_DECODER, facts.FLUX_VAE_ENCODER),
    (make_kl_decoder, make_kl_encoder),
    _FLUX_VAE,
    _FLUX_VAE | _SMALL_KL,
)


def _four_channels(networks: tuple[Network, Network], scaling_factor: float) -> tuple[ModuleSpec, ModuleSpec]:
    """The autoencoder of Stable Diffusion 1, 2 and XL, which differ in their weights and their scale."""
    config = _KL | {"latent_channels": 4, "scaling_factor": scaling_factor}
    return _pair(networks, (make_kl_decoder, make_kl_encoder), config, config | _SMALL_KL)


STABLE_DIFFUSION_VAE_DECODER, STABLE_DIFFUSION_VAE_ENCODER = _four_channels(
    (facts.STABLE_DIFFUSION_VAE_DECODER, facts.STABLE_DIFFUSION_VAE_ENCODER), 0.18215
)
SDXL_VAE_DECODER, SDXL_VAE_ENCODER = _four_channels((facts.SDXL_VAE_DECODER, facts.SDXL_VAE_ENCODER), 0.13025)

_FLUX2_VAE = _KL | {"latent_channels": 32, "batch_norm_eps": 1e-4}
FLUX2_VAE_DECODER, FLUX2_VAE_ENCODER = _pair(
    (facts.FLUX2_VAE_DECODER, facts.FLUX2_VAE_ENCODER),
    (make_flux2_decoder, make_flux2_encoder),
    _FLUX2_VAE,
    _FLUX2_VAE | _SMALL_KL,
)

_QWEN_IMAGE_VAE: dict[str, Any] = {"base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
QWEN_IMAGE_VAE_DECODER, QWEN_IMAGE_VAE_ENCODER = _pair(
    (facts.QWEN_IMAGE_VAE_DECODER, facts.QWEN_IMAGE_VAE_ENCODER),
    (make_qwen_image_decoder, make_qwen_image_encoder),
    _QWEN_IMAGE_VAE,
    _QWEN_IMAGE_VAE | {"base_dim": 8, "num_res_blocks": 1},
)
