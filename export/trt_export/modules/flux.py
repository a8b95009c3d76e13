"""Flux.1: schnell, dev and Krea dev."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from trt_export.modules.architecture import (
    ROWS,
    TOKENS,
    Architecture,
    Axis,
    ComponentSpec,
    Cost,
    Kind,
    Quantity,
    Tensor,
)
from trt_export.modules.autoencoders import FLUX_VAE_DECODER, FLUX_VAE_ENCODER
from trt_export.modules.library_module import LibraryModule
from trt_export.modules.patches import attend, pack, unpack
from trt_export.modules.rotary import Rotation, grid_positions, rotate_pairs, rotation, sinusoid
from trt_export.modules.text_encoders import CLIP_L_POOLED, T5_XXL

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


HEIGHT = Axis(name="height", quantity=Quantity.HEIGHT, unit=8, multiple=2)
WIDTH = Axis(name="width", quantity=Quantity.WIDTH, unit=8, multiple=2)
SAMPLE = Tensor(name="sample", shape=(ROWS, 16, HEIGHT, WIDTH))
TIMESTEP = Tensor(name="timestep", shape=(ROWS,), kind=Kind.FLOAT32)
CONTEXT = Tensor(name="context", shape=(ROWS, TOKENS, 4096))
POOLED = Tensor(name="pooled", shape=(ROWS, 768))
GUIDANCE = Tensor(name="guidance", shape=(ROWS,), kind=Kind.FLOAT32)
NOISE_PRED = Tensor(name="noise_pred", shape=(ROWS, 16, HEIGHT, WIDTH))

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
_COST = Cost(
    cell=16,
    fixed=6_557_270_016.0,
    per_cell=12_910_854_144.0,
    per_cell_squared=700_416.0,
    per_token=12_935_233_536.0,
    per_cell_token=1_400_832.0,
    per_token_squared=700_416.0,
    activation_bytes_per_cell=81_902.0,
    activation_bytes_per_token=88_576.0,
)

_SCHNELL = ComponentSpec(
    name="denoiser",
    make=make_denoiser,
    config=_CONFIG | {"guidance_embeds": False},
    small_config=_SMALL | {"guidance_embeds": False},
    inputs=(SAMPLE, TIMESTEP, CONTEXT, POOLED),
    outputs=(NOISE_PRED,),
    parameters=11_891_178_560,
    cost=_COST,
    precisions=("bfloat16", "float16", "float32"),  # trained in bfloat16; half precision needs `limit_half`
)
_DEV = ComponentSpec(
    name="denoiser",
    make=make_denoiser,
    config=_CONFIG | {"guidance_embeds": True},
    small_config=_SMALL | {"guidance_embeds": True},
    inputs=(SAMPLE, TIMESTEP, CONTEXT, POOLED, GUIDANCE),
    outputs=(NOISE_PRED,),
    parameters=11_901_408_320,
    cost=_COST,
    precisions=("bfloat16", "float16", "float32"),
)


def _flux(name: str, title: str, denoiser: ComponentSpec, note: str) -> Architecture:
    return Architecture(
        name=name,
        title=title,
        prediction="flow",
        timesteps=1,
        latent_channels=16,
        latent_scale=8,
        native_pixels=1024 * 1024,
        tokens=(256, 512),
        components=(CLIP_L_POOLED, T5_XXL, denoiser, FLUX_VAE_DECODER, FLUX_VAE_ENCODER),
        guidance_rows=1,
        notes={
            "text": "T5 tokens are padded with 0 to 256 at least and looked at without a mask, as ComfyUI does; rows"
            " of different lengths cannot share a call",
            "guidance": note,
        },
    )


FLUX_SCHNELL = _flux("flux_schnell", "Flux.1 schnell", _SCHNELL, "distilled: one row per image, no guidance input")
FLUX_DEV = _flux("flux_dev", "Flux.1 dev", _DEV, "distilled: an input, 3.5 by default, one row per image")
FLUX_KREA_DEV = _flux("flux_krea_dev", "Flux.1 Krea dev", _DEV, "as Flux.1 dev, whose graphs it shares")
