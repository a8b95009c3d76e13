"""Z-Image Turbo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ZImageTransformer2DModel
from torch import nn

from trt_engines.architectures.z_image import GROUP, TAPS, Z_IMAGE_TURBO
from trt_engines.modules.autoencoders import FLUX_VAE_DECODER, FLUX_VAE_ENCODER
from trt_engines.modules.library_module import LibraryModule
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.patches import attend, key_mask, pack_channels_last, unpack_channels_last
from trt_engines.modules.rotary import Rotation, grid_positions, rotate_pairs, rotation, sinusoid
from trt_engines.modules.text_encoders import qwen3_4b

_PATCHING = "2-1"  # the library's key of 2x2 patches of one frame


class SelfAttention:
    """Attention of Z-Image's blocks with a real rotation; the library's is complex."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        freqs_cis: Rotation | None = None,
    ) -> torch.Tensor:
        query, key, value = (
            projection(hidden_states).unflatten(-1, (attn.heads, -1))
            for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        assert freqs_cis is not None  # every block of this network has one
        query, key = rotate_pairs(attn.norm_q(query), freqs_cis), rotate_pairs(attn.norm_k(key), freqs_cis)
        mixed: torch.Tensor = attn.to_out[0](attend(query, key, value, attention_mask))
        return mixed


class ZImageDenoiser(LibraryModule):
    """Velocity of Z-Image: denoised = sample - timestep * noise_pred.

    sample [rows, 16, h, w] (h, w even), timestep [rows] flow time in 0..1 (1 is noise; the noise level itself: the
    network is told one minus it, and its output is negated here), context [rows, tokens, 2560] (tokens a multiple of
    32), context_mask bool [rows, tokens], True for the prompt's tokens, which come first
    -> noise_pred [rows, 16, h, w].

    The library's forward takes lists and grows each to a multiple of 32 tokens; here a row has all tokens of its call,
    and those past its own multiple of 32 are not looked at.
    """

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor, context_mask: torch.Tensor
    ) -> torch.Tensor:
        model = self.model
        config, embedder = model.config, model.t_embedder
        height, width = sample.shape[2] // 2, sample.shape[3] // 2
        time = sinusoid((1 - timestep) * config.t_scale, embedder.frequency_embedding_size)
        state = embedder.mlp(time.to(sample.dtype))

        text = torch.where(context_mask.unsqueeze(-1), model.cap_embedder(context), model.cap_pad_token)
        lengths = context_mask.to(torch.float32).sum(dim=1, keepdim=True)
        lengths = torch.ceil(lengths / GROUP) * GROUP
        order = torch.arange(context.shape[1], dtype=torch.float32, device=sample.device)
        of_text = order < lengths
        text_turn = self._text_rotation(order)
        for block in model.context_refiner:
            text = block(text, key_mask(of_text), text_turn)

        image = model.all_x_embedder[_PATCHING](pack_channels_last(sample))
        image = torch.cat([image, model.x_pad_token.expand(sample.shape[0], GROUP, -1)], dim=1)
        of_image = _filled(height * width, sample.device).expand(sample.shape[0], -1)
        image_turn = self._image_rotation(height, width, lengths + 1)
        for block in model.noise_refiner:
            image = block(image, key_mask(of_image), image_turn, state)

        joint = torch.cat([image, text], dim=1)
        cosine, sine = (
            torch.cat([own, shared.unsqueeze(0).expand(sample.shape[0], -1, -1)], dim=1)
            for own, shared in zip(image_turn, text_turn, strict=True)
        )
        seen = key_mask(torch.cat([of_image, of_text], dim=1))
        for block in model.layers:
            joint = block(joint, seen, (cosine, sine), state)
        velocity = model.all_final_layer[_PATCHING](joint[:, : height * width], c=state)
        return -unpack_channels_last(velocity, height, width)

    def _text_rotation(self, order: torch.Tensor) -> Rotation:
        config, flat = self.model.config, torch.zeros_like(order)
        return rotation((order + 1, flat, flat), config.axes_dims, config.rope_theta)

    def _image_rotation(self, height: int, width: int, depth: torch.Tensor) -> Rotation:
        """Patches sit at (depth, row, column), with `depth` [rows, 1] past the row's text; what fills up at 0."""
        config = self.model.config
        rows, columns = grid_positions(height, width, depth.device)
        fill = torch.zeros(GROUP, dtype=torch.float32, device=depth.device)
        inside = torch.cat([torch.ones_like(rows), fill])
        positions = (
            depth * inside,
            torch.cat([rows, fill]).expand(depth.shape[0], -1),
            torch.cat([columns, fill]).expand(depth.shape[0], -1),
        )
        return rotation(positions, config.axes_dims, config.rope_theta)


def _filled(patches: int, device: torch.device) -> torch.Tensor:
    """Which of an image's patches and the 32 tokens after them count, bool [patches + 32]."""
    fill = torch.arange(GROUP, device=device) < (-patches) % GROUP
    return torch.cat([torch.ones(patches, dtype=torch.bool, device=device), fill])


def make_denoiser(config: Mapping[str, Any]) -> nn.Module:
    """The denoiser of a configuration of `ZImageTransformer2DModel`."""
    model = ZImageTransformer2DModel(**config)
    for block in (*model.noise_refiner, *model.context_refiner, *model.layers):
        block.attention.set_processor(SelfAttention())
    return ZImageDenoiser(model).eval()


_CONFIG: dict[str, Any] = {
    "in_channels": 16,
    "dim": 3840,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "n_heads": 30,
    "n_kv_heads": 30,
    "cap_feat_dim": 2560,
    "rope_theta": 256.0,
    "t_scale": 1000.0,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1024, 512, 512],
}
_SMALL: dict[str, Any] = _CONFIG | {
    "dim": 64,
    "n_layers": 1,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "axes_dims": [8, 12, 12],
}

MODULES = {
    "z_image_turbo": (
        qwen3_4b(Z_IMAGE_TURBO.network("text_encoder"), TAPS, (2,)),
        ModuleSpec(network=Z_IMAGE_TURBO.network("denoiser"), make=make_denoiser, config=_CONFIG, small_config=_SMALL),
        FLUX_VAE_DECODER,
        FLUX_VAE_ENCODER,
    )
}
