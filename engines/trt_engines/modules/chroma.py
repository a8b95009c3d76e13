"""Chroma: Flux.1 schnell without the pooled prompt, its modulations made by one small network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import ChromaTransformer2DModel
from torch import nn

from trt_engines.architectures.chroma import CHROMA
from trt_engines.modules.autoencoders import FLUX_VAE_DECODER, FLUX_VAE_ENCODER
from trt_engines.modules.flux import (
    TIME_UNITS,
    JointAttention,
    joint_rotation,
    limit_half,
)
from trt_engines.modules.library_module import LibraryModule
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.patches import key_mask, pack, unpack
from trt_engines.modules.rotary import falling_frequencies, sinusoid
from trt_engines.modules.text_encoders import t5_xxl


class ChromaDenoiser(LibraryModule):
    """Velocity of Chroma: denoised = sample - timestep * noise_pred.

    sample [rows, 16, h, w] (h, w even), timestep [rows] flow time in 0..1 (1 is noise; the noise level itself),
    context [rows, tokens, 4096] of T5, context_mask bool [rows, tokens], True for tokens that are looked at
    -> noise_pred [rows, 16, h, w].
    """

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor, context_mask: torch.Tensor
    ) -> torch.Tensor:
        model = self.model
        tokens, height, width = context.shape[1], sample.shape[2] // 2, sample.shape[3] // 2
        states = self._states(timestep, sample.dtype)
        turn = joint_rotation(tokens, height, width, sample.device, axes=model.config.axes_dims_rope)
        image, text = model.x_embedder(pack(sample)), model.context_embedder(context)
        seen = torch.cat([context_mask, torch.ones_like(image[..., 0], dtype=torch.bool)], dim=1)
        attention = {"mask": key_mask(seen)}
        singles, doubles = len(model.single_transformer_blocks), len(model.transformer_blocks)
        for number, block in enumerate(model.transformer_blocks):
            of_image, of_text = 3 * singles + 6 * number, 3 * singles + 6 * (doubles + number)
            state = torch.cat([states[:, of_image : of_image + 6], states[:, of_text : of_text + 6]], dim=1)
            text, image = block(image, text, state, turn, joint_attention_kwargs=attention)
        joint = torch.cat([text, image], dim=1)
        for number, block in enumerate(model.single_transformer_blocks):
            state = states[:, 3 * number : 3 * number + 3]
            joint = limit_half(block(joint, state, turn, joint_attention_kwargs=attention))
        return unpack(model.proj_out(model.norm_out(joint[:, tokens:], states[:, -2:])), height, width)

    def _states(self, timestep: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What modulates every block, one vector per shift, scale and gate: [rows, modulations, width]."""
        model = self.model
        count, width = model.time_text_embed.mod_proj.shape
        places = torch.tensor(place_embedding(count, width), dtype=torch.float32, device=timestep.device)
        half = width // 2
        time = sinusoid(timestep * TIME_UNITS, half)
        guidance = sinusoid(torch.zeros_like(timestep), half)  # the network is trained with guidance 0 alone
        told = torch.cat([time, guidance], dim=1).unsqueeze(1).expand(-1, count, -1)
        vector = torch.cat([told, places.unsqueeze(0).expand(timestep.shape[0], -1, -1)], dim=2)
        states: torch.Tensor = model.distilled_guidance_layer(vector.to(dtype))
        return states


def place_embedding(count: int, width: int) -> list[list[float]]:
    """Sinusoids of 1000 times each modulation's number, in the float32 steps of the reference.

    Float32 because the angles reach 344,000: the rounding of the frequencies is part of what was trained.
    """
    frequencies = np.array(falling_frequencies(width // 2), np.float32)
    angles = (np.arange(count) * 1000).astype(np.float32)[:, None] * frequencies
    values: list[list[float]] = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).tolist()
    return values


def make_denoiser(config: Mapping[str, Any]) -> nn.Module:
    """The denoiser of a configuration of `ChromaTransformer2DModel`."""
    model = ChromaTransformer2DModel(**config)
    model.set_attn_processor(JointAttention())
    return ChromaDenoiser(model).eval()


_CONFIG: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "axes_dims_rope": (16, 56, 56),
    "approximator_num_channels": 64,
    "approximator_hidden_dim": 5120,
    "approximator_layers": 5,
}

_SMALL: dict[str, Any] = _CONFIG | {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "axes_dims_rope": (8, 12, 12),
    "approximator_hidden_dim": 32,
    "approximator_layers": 2,
}

MODULES = {
    "chroma": (
        t5_xxl(CHROMA.network("text_encoder")),
        ModuleSpec(network=CHROMA.network("denoiser"), make=make_denoiser, config=_CONFIG, small_config=_SMALL),
        FLUX_VAE_DECODER,
        FLUX_VAE_ENCODER,
    )
}
