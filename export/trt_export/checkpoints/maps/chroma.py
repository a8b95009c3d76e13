"""Chroma in the layout it is published in: Flux.1's, with one small network in place of the modulations.

Source: ComfyUI's comfy/ldm/chroma, for names alone. The tests hold the table to diffusers' converter.
"""

from __future__ import annotations

from collections.abc import Iterator

from trt_export.checkpoints.keymap import Entry, KeyMap
from trt_export.checkpoints.maps import autoencoders, text_encoders
from trt_export.checkpoints.maps.flux import denoiser, streams
from trt_export.checkpoints.maps.rows import affine, row
from trt_export.checkpoints.signature import Signature


def maps(architecture: str, component: str) -> tuple[KeyMap, ...]:
    """The layouts of a component of Chroma; () for any other."""
    return _COMPONENTS.get(component, ()) if architecture == "chroma" else ()


def _denoiser(norm: str) -> Iterator[Entry]:
    yield from streams(norm)
    guide = "distilled_guidance_layer"
    yield from affine(
        (f"{guide}.in_proj", f"{guide}.in_proj"),
        (f"{guide}.out_proj", f"{guide}.out_proj"),
        (f"{guide}.layers.{{}}.in_layer", f"{guide}.layers.{{}}.linear_1"),
        (f"{guide}.layers.{{}}.out_layer", f"{guide}.layers.{{}}.linear_2"),
    )
    yield row(f"{guide}.norms.{{}}.{norm}", f"{guide}.norms.{{}}.weight")


_COMPONENTS: dict[str, tuple[KeyMap, ...]] = {
    "text_encoder": text_encoders.T5_XXL,
    "denoiser": denoiser(_denoiser),
    "vae_decoder": autoencoders.FLUX,
    "vae_encoder": autoencoders.FLUX,
}


SIGNATURES = (
    Signature(
        architecture="chroma",
        layout="bfl",
        tensors={
            "img_in.weight": (3072, 64),
            "double_blocks.18.img_attn.qkv.weight": (9216, 3072),
            "distilled_guidance_layer.in_proj.weight": (5120, 64),
        },
    ),
    Signature(
        architecture="chroma",
        layout="diffusers",
        tensors={
            "x_embedder.weight": (3072, 64),
            "transformer_blocks.18.attn.add_q_proj.weight": (3072, 3072),
            "distilled_guidance_layer.in_proj.weight": (5120, 64),
        },
    ),
)
