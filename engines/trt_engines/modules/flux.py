"""Flux.1: schnell, dev and Krea dev."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from trt_engines.architectures import flux as facts
from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.text_encoders import T5_XXL
from trt_engines.modules.autoencoders import FLUX_VAE_DECODER, FLUX_VAE_ENCODER
from trt_engines.modules.library_module import LibraryModule
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.patches import attend, pack, unpack
from trt_engines.modules.rotary import Rotation, grid_positions, rotate_pairs, rotation, sinusoid
from trt_engines.modules.text_encoders import CLIP_L_POOLED, t5_xxl

TIME_UNITS = 1000
"""Flux embeds times and guidance in thousandths."""

ROTARY_THETA = 10000


class JointAttention:
    """Attention over text and image tokens, for the attention modules of Flux and Chroma.

    Replaces the library's processor, whose choice of kernel and float64 rotation cannot be exported.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Rotation | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        def heads(projection: nn.Module, states: torch.Tensor) -> torch.Tensor:
            projected: torch.Tensor = projection(states)
            return projected.unflatten(-1, (-1, attn.head_dim))

        query = attn.norm_q(heads(attn.to_q, hidden_states))
        key = attn.norm_k(heads(attn.to_k, hidden_states))
        value = heads(attn.to_v, hidden_states)
        if encoder_hidden_states is not None:
            query = torch.cat([attn.norm_added_q(heads(attn.add_q_proj, encoder_hidden_states)), query], dim=1)
            key = torch.cat([attn.norm_added_k(heads(attn.add_k_proj, encoder_hidden_states)), key], dim=1)
            value = torch.cat([heads(attn.add_v_proj, encoder_hidden_states), value], dim=1)
        assert image_rotary_emb is not None  # every block of these networks has one
        mixed = attend(rotate_pairs(query, image_rotary_emb), rotate_pairs(key, image_rotary_emb), value, mask)
        if encoder_hidden_states is None:
            return mixed
        tokens = encoder_hidden_states.shape[1]
        return attn.to_out[0](mixed[:, tokens:]), attn.to_add_out(mixed[:, :tokens])


def joint_rotation(
    tokens: int, height: int, width: int, device: torch.device, *, axes: tuple[int, ...], theta: float = ROTARY_THETA
) -> Rotation:
    """The rotation of text tokens, which all sit at the origin, then of the patches of an image.

    Args:
        tokens: of text; height, width: of the image in patches.
        axes, theta: as `rotation` takes its widths and its base.
    """
    rows, columns = grid_positions(height, width, device)
    origin = torch.zeros(tokens, dtype=torch.float32, device=device)
    positions = (
        torch.cat([origin, torch.zeros_like(rows)]),
        torch.cat([origin, rows]),
        torch.cat([origin, columns]),
    )
    return rotation(positions, axes, theta)


class FluxDenoiser(LibraryModule):
    """Velocity of a Flux.1 network: denoised = sample - timestep * noise_pred.

    sample [rows, 16, h, w] (h, w even), timestep [rows] flow time in 0..1 (1 is noise; the noise level itself),
    context [rows, tokens, 4096] of T5 (unmasked: rows of one call have one length), pooled [rows, 768] of CLIP-L,
    guidance [rows] where the network is distilled for it -> noise_pred [rows, 16, h, w].
    """

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        pooled: torch.Tensor,
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        model = self.model
        tokens, height, width = context.shape[1], sample.shape[2] // 2, sample.shape[3] // 2
        state = self._state(timestep, pooled, guidance)
        turn = joint_rotation(tokens, height, width, sample.device, axes=model.config.axes_dims_rope)
        image, text = model.x_embedder(pack(sample)), model.context_embedder(context)
        for block in model.transformer_blocks:
            text, image = block(image, text, state, turn)
        joint = torch.cat([text, image], dim=1)
        for block in model.single_transformer_blocks:
            joint = _single(block, joint, state, turn)
        return unpack(model.proj_out(model.norm_out(joint[:, tokens:], state)), height, width)

    def _state(self, timestep: torch.Tensor, pooled: torch.Tensor, guidance: torch.Tensor | None) -> torch.Tensor:
        """What modulates every block: time, guidance and the pooled prompt, [rows, width]."""
        embed = self.model.time_text_embed
        width = embed.time_proj.num_channels
        state: torch.Tensor = embed.timestep_embedder(sinusoid(timestep * TIME_UNITS, width).to(pooled.dtype))
        if guidance is not None:
            state = state + embed.guidance_embedder(sinusoid(guidance * TIME_UNITS, width).to(pooled.dtype))
        return state + embed.text_embedder(pooled)


def _single(block: Any, joint: torch.Tensor, state: torch.Tensor, turn: Rotation) -> torch.Tensor:
    """A single-stream block over tokens that stay joined; the library's own joins and parts them in every block."""
    normed, gate = block.norm(joint, emb=state)
    attended = block.attn(hidden_states=normed, image_rotary_emb=turn)
    mixed = block.proj_out(torch.cat([attended, block.act_mlp(block.proj_mlp(normed))], dim=2))
    return limit_half(joint + gate.unsqueeze(1) * mixed)


def limit_half(states: torch.Tensor) -> torch.Tensor:
    """Keep a residual stream finite in half precision, as the reference does."""
    return states.clip(-65504, 65504) if states.dtype == torch.float16 else states


def make_denoiser(config: Mapping[str, Any]) -> nn.Module:
    """The denoiser of a configuration of `FluxTransformer2DModel`."""
    model = FluxTransformer2DModel(**config)
    model.set_attn_processor(JointAttention())
    return FluxDenoiser(model).eval()


_CONFIG: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "axes_dims_rope": (16, 56, 56),
}
_SMALL: dict[str, Any] = _CONFIG | {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "axes_dims_rope": (8, 12, 12),
}


def _modules(architecture: Architecture, *, guidance_embeds: bool) -> tuple[ModuleSpec, ...]:
    own = {"guidance_embeds": guidance_embeds}
    denoiser = ModuleSpec(
        network=architecture.network("denoiser"),
        make=make_denoiser,
        config=_CONFIG | own,
        small_config=_SMALL | own,
    )
    return CLIP_L_POOLED, t5_xxl(T5_XXL), denoiser, FLUX_VAE_DECODER, FLUX_VAE_ENCODER


MODULES = {
    "flux_schnell": _modules(facts.FLUX_SCHNELL, guidance_embeds=False),
    "flux_dev": _modules(facts.FLUX_DEV, guidance_embeds=True),
    "flux_krea_dev": _modules(facts.FLUX_KREA_DEV, guidance_embeds=True),
}
