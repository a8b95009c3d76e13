"""FLUX.2 in the layout of Black Forest Labs, which ComfyUI's files keep.

Source: black-forest-labs/flux2, `model.py`. The tests hold the table to diffusers' converter.
"""

from __future__ import annotations

from collections.abc import Iterator

from trt_export.checkpoints.keymap import Entry, KeyMap
from trt_export.checkpoints.maps import autoencoders, text_encoders
from trt_export.checkpoints.maps.flux import denoiser, joint_attention, last_modulation, single_norms
from trt_export.checkpoints.maps.rows import row
from trt_export.checkpoints.signature import Signature


def maps(architecture: str, component: str) -> tuple[KeyMap, ...]:
    """The layouts of a component of FLUX.2 Klein 4B; () for any other."""
    return _COMPONENTS.get(component, ()) if architecture == "flux2_klein_4b" else ()


def _denoiser(norm: str) -> Iterator[Entry]:
    """No layer of FLUX.2 has a bias: rows for them (of the shared attention) are no harm."""
    yield from joint_attention(norm)
    yield from single_norms(norm)
    yield from last_modulation(("weight",))
    double, single = "double_blocks.{}", "single_blocks.{}"
    for stored, library in (
        ("img_in", "x_embedder"),
        ("txt_in", "context_embedder"),
        ("time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_1"),
        ("time_in.out_layer", "time_guidance_embed.timestep_embedder.linear_2"),
        ("double_stream_modulation_img.lin", "double_stream_modulation_img.linear"),
        ("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear"),
        ("single_stream_modulation.lin", "single_stream_modulation.linear"),
        (f"{double}.img_mlp.0", "transformer_blocks.{}.ff.linear_in"),
        (f"{double}.img_mlp.2", "transformer_blocks.{}.ff.linear_out"),
        (f"{double}.txt_mlp.0", "transformer_blocks.{}.ff_context.linear_in"),
        (f"{double}.txt_mlp.2", "transformer_blocks.{}.ff_context.linear_out"),
        (f"{single}.linear1", "single_transformer_blocks.{}.attn.to_qkv_mlp_proj"),
        (f"{single}.linear2", "single_transformer_blocks.{}.attn.to_out"),
        ("final_layer.linear", "proj_out"),
    ):
        yield row(f"{stored}.weight", f"{library}.weight")


_COMPONENTS: dict[str, tuple[KeyMap, ...]] = {
    "text_encoder": text_encoders.QWEN3_4B,
    "denoiser": denoiser(_denoiser),
    "vae_decoder": autoencoders.FLUX2,
    "vae_encoder": autoencoders.FLUX2,
}


SIGNATURES = (
    Signature(
        architecture="flux2_klein_4b",
        layout="bfl",
        tensors={
            "img_in.weight": (3072, 128),
            "txt_in.weight": (3072, 7680),
            "double_stream_modulation_img.lin.weight": (18432, 3072),
        },
    ),
    Signature(
        architecture="flux2_klein_4b",
        layout="diffusers",
        tensors={
            "x_embedder.weight": (3072, 128),
            "context_embedder.weight": (3072, 7680),
            "double_stream_modulation_img.linear.weight": (18432, 3072),
        },
    ),
)
