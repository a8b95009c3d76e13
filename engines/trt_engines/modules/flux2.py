"""FLUX.2 Klein 4B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import Flux2Transformer2DModel
from torch import nn

from trt_engines.architectures.flux2 import FLUX2_KLEIN_4B, TAPS
from trt_engines.modules.autoencoders import FLUX2_VAE_DECODER, FLUX2_VAE_ENCODER
from trt_engines.modules.flux import TIME_UNITS, JointAttention
from trt_engines.modules.library_module import LibraryModule
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.patches import attend
from trt_engines.modules.rotary import Rotation, grid_positions, rotate_pairs, rotation, sinusoid
from trt_engines.modules.text_encoders import qwen3_4b


class ParallelAttention:
    """Attention and feed-forward side by side, for the single-stream blocks of FLUX.2."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Rotation | None = None,
    ) -> torch.Tensor:
        projected = attn.to_qkv_mlp_proj(hidden_states)
        fused, inner = projected.split([3 * attn.inner_dim, attn.mlp_hidden_dim * attn.mlp_mult_factor], dim=-1)
        query, key, value = (part.unflatten(-1, (-1, attn.head_dim)) for part in fused.chunk(3, dim=-1))
        assert image_rotary_emb is not None  # every block of this network has one
        query = rotate_pairs(attn.norm_q(query), image_rotary_emb)
        key = rotate_pairs(attn.norm_k(key), image_rotary_emb)
        mixed: torch.Tensor = attn.to_out(torch.cat([attend(query, key, value), attn.mlp_act_fn(inner)], dim=-1))
        return mixed


class Flux2Denoiser(LibraryModule):
    """Velocity of FLUX.2 Klein: denoised = sample - timestep * noise_pred.

    sample [rows, 128, h, w]: one position is a whitened 2x2 patch of the autoencoder's 32 channels, 16 pixels wide,
    which is the shape the reference draws its noise in; timestep [rows] flow time in 0..1 (1 is noise; the noise level
    itself), context [rows, tokens, 7680], padding included and looked at -> noise_pred [rows, 128, h, w].
    """

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        model = self.model
        tokens, height, width = context.shape[1], sample.shape[2], sample.shape[3]
        embed = model.time_guidance_embed
        time = sinusoid(timestep * TIME_UNITS, embed.time_proj.num_channels)
        state = embed.timestep_embedder(time.to(sample.dtype))
        of_image, of_text = model.double_stream_modulation_img(state), model.double_stream_modulation_txt(state)
        of_joint = model.single_stream_modulation(state)
        turn = self._rotation(tokens, height, width, sample.device)
        image = model.x_embedder(sample.flatten(2).transpose(1, 2))
        text = model.context_embedder(context)
        for block in model.transformer_blocks:
            text, image = block(image, text, of_image, of_text, turn)
        joint = torch.cat([text, image], dim=1)
        for block in model.single_transformer_blocks:
            joint = block(joint, None, of_joint, turn)
        velocity: torch.Tensor = model.proj_out(model.norm_out(joint[:, tokens:], state))
        return velocity.transpose(1, 2).unflatten(2, (height, width))

    def _rotation(self, tokens: int, height: int, width: int, device: torch.device) -> Rotation:
        """Positions are (time, row, column, place in the text); a picture without references is at time 0."""
        config = self.model.config
        rows, columns = grid_positions(height, width, device)
        order = torch.arange(tokens, dtype=torch.float32, device=device)
        origin, flat = torch.zeros_like(order), torch.zeros_like(rows)
        positions = (
            torch.cat([origin, flat]),
            torch.cat([origin, rows]),
            torch.cat([origin, columns]),
            torch.cat([order, flat]),
        )
        return rotation(positions, config.axes_dims_rope, config.rope_theta)


def make_denoiser(config: Mapping[str, Any]) -> nn.Module:
    """The denoiser of a configuration of `Flux2Transformer2DModel`."""
    model = Flux2Transformer2DModel(**config)
    for block in model.transformer_blocks:
        block.attn.set_processor(JointAttention())
    for block in model.single_transformer_blocks:
        block.attn.set_processor(ParallelAttention())
    return Flux2Denoiser(model).eval()


_CONFIG: dict[str, Any] = {
    "in_channels": 128,
    "num_layers": 5,
    "num_single_layers": 20,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "axes_dims_rope": (32, 32, 32, 32),
    "rope_theta": 2000,
    "guidance_embeds": False,
}
_SMALL: dict[str, Any] = _CONFIG | {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "axes_dims_rope": (8, 8, 8, 8),
}

MODULES = {
    "flux2_klein_4b": (
        qwen3_4b(FLUX2_KLEIN_4B.network("text_encoder"), TAPS, (1, 2, 3)),
        ModuleSpec(network=FLUX2_KLEIN_4B.network("denoiser"), make=make_denoiser, config=_CONFIG, small_config=_SMALL),
        FLUX2_VAE_DECODER,
        FLUX2_VAE_ENCODER,
    )
}
