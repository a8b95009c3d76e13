"""Krea 2 Turbo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import Krea2Transformer2DModel
from torch import nn
from torch.nn import functional

from trt_engines.architectures.krea2 import KREA_2_TURBO, TAPS, TEMPLATE
from trt_engines.modules.autoencoders import QWEN_IMAGE_VAE_DECODER, QWEN_IMAGE_VAE_ENCODER
from trt_engines.modules.flux import TIME_UNITS, joint_rotation
from trt_engines.modules.library_module import LibraryModule
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.patches import attend, key_mask, pack, unpack
from trt_engines.modules.rotary import Rotation, rotate_pairs, sinusoid
from trt_engines.modules.text_encoders import qwen3_vl_4b

TEMPLATE_TOKENS = TEMPLATE.cut
"""Tokens of the system prompt that the encoder reads and the denoiser does not look at."""


class GroupedAttention:
    """Gated attention with shared keys and values, for every attention of Krea 2."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Rotation | None = None,
    ) -> torch.Tensor:
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, attn.head_dim))
            for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = attn.norm_q(query), attn.norm_k(key)
        if image_rotary_emb is not None:
            query, key = rotate_pairs(query, image_rotary_emb), rotate_pairs(key, image_rotary_emb)
        groups = attn.num_heads // attn.num_kv_heads
        key, value = key.repeat_interleave(groups, dim=2), value.repeat_interleave(groups, dim=2)
        mixed = attend(query, key, value, attention_mask) * torch.sigmoid(attn.to_gate(hidden_states))
        projected: torch.Tensor = attn.to_out[0](mixed)
        return projected


class ZeroCentredNorm(nn.Module):
    """RMS norm whose weight is stored as its distance from 1, computed in float32 at any type of the weight."""

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        wide = states.float()
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return (wide * scale * (self.weight.float() + 1)).to(states.dtype)


class Krea2Denoiser(LibraryModule):
    """Velocity of Krea 2: denoised = sample - timestep * noise_pred.

    sample [rows, 16, h, w] (h, w even), timestep [rows] flow time in 0..1 (1 is noise; the noise level itself),
    context [rows, tokens, 12 * 2560] as the text encoder gives it, template included, context_mask bool
    [rows, tokens], False for padding -> noise_pred [rows, 16, h, w].
    """

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor, context_mask: torch.Tensor
    ) -> torch.Tensor:
        model = self.model
        config, embed = model.config, model.time_embed
        height, width = sample.shape[2] // 2, sample.shape[3] // 2
        time = sinusoid(timestep * TIME_UNITS, embed.embed_dim).unsqueeze(1).to(sample.dtype)
        state = embed.linear_2(functional.gelu(embed.linear_1(time), approximate="tanh"))
        modulation = model.time_mod_proj(functional.gelu(state, approximate="tanh"))

        kept = context_mask[:, TEMPLATE_TOKENS:]
        taps = context[:, TEMPLATE_TOKENS:].unflatten(2, (config.num_text_layers, config.text_hidden_dim))
        text = model.txt_in(self._fused(taps, key_mask(kept)))
        image = model.img_in(pack(sample))
        turn = joint_rotation(
            text.shape[1], height, width, sample.device, axes=config.axes_dims_rope, theta=config.rope_theta
        )
        seen = key_mask(torch.cat([kept, torch.ones_like(image[..., 0], dtype=torch.bool)], dim=1))
        joint = torch.cat([text, image], dim=1)
        for block in model.transformer_blocks:
            joint = block(joint, modulation, turn, seen)
        return unpack(model.final_layer(joint[:, text.shape[1] :], state), height, width)

    def _fused(self, taps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The taps of each token as one state, then the tokens among each other: [rows, tokens, width]."""
        fusion, rows = self.model.text_fusion, taps.shape[0]
        layers = taps.flatten(0, 1)
        for block in fusion.layerwise_blocks:
            layers = block(layers)
        states: torch.Tensor = fusion.projector(layers.unflatten(0, (rows, -1)).transpose(2, 3)).squeeze(-1)
        for block in fusion.refiner_blocks:
            states = block(states, attention_mask=mask)
        return states


def make_denoiser(config: Mapping[str, Any]) -> nn.Module:
    """The denoiser of a configuration of `Krea2Transformer2DModel`."""
    model = Krea2Transformer2DModel(**config)
    for module in list(model.modules()):
        if hasattr(module, "set_processor"):
            module.set_processor(GroupedAttention())
        for name, child in list(module.named_children()):
            if type(child).__name__ == "Krea2RMSNorm":
                setattr(module, name, ZeroCentredNorm(child.weight, child.eps))
    return Krea2Denoiser(model).eval()


_CONFIG: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 28,
    "attention_head_dim": 128,
    "num_attention_heads": 48,
    "num_key_value_heads": 12,
    "intermediate_size": 16384,
    "text_hidden_dim": 2560,
    "num_text_layers": 12,
    "text_num_attention_heads": 20,
    "text_num_key_value_heads": 20,
    "text_intermediate_size": 6912,
    "axes_dims_rope": (32, 48, 48),
    "rope_theta": 1000.0,
}
_SMALL: dict[str, Any] = _CONFIG | {
    "num_layers": 1,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
    "text_hidden_dim": 128,  # 240 narrow taps are as wide as 12 wide ones
    "num_text_layers": 240,
    "text_num_attention_heads": 2,
    "text_num_key_value_heads": 2,
    "text_intermediate_size": 32,
    "num_layerwise_text_blocks": 1,
    "num_refiner_text_blocks": 1,
    "axes_dims_rope": (8, 12, 12),
}

MODULES = {
    "krea_2_turbo": (
        qwen3_vl_4b(KREA_2_TURBO.network("text_encoder"), TAPS, (1, 2, 3)),
        ModuleSpec(network=KREA_2_TURBO.network("denoiser"), make=make_denoiser, config=_CONFIG, small_config=_SMALL),
        QWEN_IMAGE_VAE_DECODER,
        QWEN_IMAGE_VAE_ENCODER,
    )
}
