"""Flux.1 in the layout of Black Forest Labs, which ComfyUI's files keep.

Source: black-forest-labs/flux, `model.py` and `layers.py`. The tests hold the table to diffusers' converter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trt_export.checkpoints.keymap import Change, Entry, KeyMap
from trt_export.checkpoints.maps import autoencoders, text_encoders
from trt_export.checkpoints.maps.rows import DENOISER_PREFIXES, KINDS, affine, fused, row
from trt_export.checkpoints.signature import Signature


def maps(architecture: str, component: str) -> tuple[KeyMap, ...]:
    """The layouts of a component of Flux.1 schnell, dev and Krea dev; () for any other."""
    return _COMPONENTS.get(component, ()) if architecture in _FAMILY else ()


def denoiser(rows: Callable[[str], Iterator[Entry]]) -> tuple[KeyMap, ...]:
    """The two spellings of a denoiser: as published, and as newer versions of ComfyUI save it.

    Args: rows: of the table, by what the weight of a norm is called.
    """
    return tuple(
        KeyMap(layout=layout, prefixes=DENOISER_PREFIXES, entries=tuple(rows(norm)))
        for layout, norm in (("bfl", "scale"), ("comfy", "weight"))
    )


def joint_attention(norm: str) -> Iterator[Entry]:
    """The attention of double-stream blocks, of Flux.1, Chroma and FLUX.2 alike."""
    block, attention = "double_blocks.{}", "transformer_blocks.{}.attn"
    for stored, parts, out, norms in (
        ("img_attn", ("to_q", "to_k", "to_v"), "to_out.0", ("norm_q", "norm_k")),
        ("txt_attn", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", ("norm_added_q", "norm_added_k")),
    ):
        yield from fused(f"{block}.{stored}.qkv", *(f"{attention}.{part}" for part in parts))
        yield from affine((f"{block}.{stored}.proj", f"{attention}.{out}"))
        for name, library in zip(("query_norm", "key_norm"), norms, strict=True):
            yield row(f"{block}.{stored}.norm.{name}.{norm}", f"{attention}.{library}.weight")


def single_norms(norm: str) -> Iterator[Entry]:
    """The norms of single-stream blocks, of Flux.1, Chroma and FLUX.2 alike."""
    for stored, library in (("query_norm", "norm_q"), ("key_norm", "norm_k")):
        yield row(f"single_blocks.{{}}.norm.{stored}.{norm}", f"single_transformer_blocks.{{}}.attn.{library}.weight")


def streams(norm: str) -> Iterator[Entry]:
    """All of Flux.1 that Chroma has as well: what goes in and out, and blocks without what modulates them."""
    yield from affine(("img_in", "x_embedder"), ("txt_in", "context_embedder"), ("final_layer.linear", "proj_out"))
    yield from joint_attention(norm)
    double, library = "double_blocks.{}", "transformer_blocks.{}"
    for stream, feed in (("img_mlp", "ff"), ("txt_mlp", "ff_context")):
        yield from affine(
            (f"{double}.{stream}.0", f"{library}.{feed}.net.0.proj"),
            (f"{double}.{stream}.2", f"{library}.{feed}.net.2"),
        )
    single, library = "single_blocks.{}", "single_transformer_blocks.{}"
    parts = (*(f"attn.to_{part}" for part in "qkv"), "proj_mlp")
    yield from fused(f"{single}.linear1", *(f"{library}.{part}" for part in parts))
    yield from affine((f"{single}.linear2", f"{library}.proj_out"))
    yield from single_norms(norm)


def last_modulation(kinds: tuple[str, ...]) -> Iterator[Entry]:
    """What modulates the last layer: the file has the shift before the scale, the library the other way round."""
    for kind in kinds:
        yield Entry(
            stored=f"final_layer.adaLN_modulation.1.{kind}",
            library=(f"norm_out.linear.{kind}",),
            change=Change.HALVES_SWAPPED,
        )


def _denoiser(norm: str) -> Iterator[Entry]:
    yield from streams(norm)
    for stored, library in (
        ("time_in", "timestep_embedder"),
        ("vector_in", "text_embedder"),
        ("guidance_in", "guidance_embedder"),
    ):
        yield from affine(
            (f"{stored}.in_layer", f"time_text_embed.{library}.linear_1"),
            (f"{stored}.out_layer", f"time_text_embed.{library}.linear_2"),
        )
    yield from affine(
        ("double_blocks.{}.img_mod.lin", "transformer_blocks.{}.norm1.linear"),
        ("double_blocks.{}.txt_mod.lin", "transformer_blocks.{}.norm1_context.linear"),
        ("single_blocks.{}.modulation.lin", "single_transformer_blocks.{}.norm.linear"),
    )
    yield from last_modulation(KINDS)


_FAMILY = frozenset({"flux_schnell", "flux_dev", "flux_krea_dev"})
_COMPONENTS: dict[str, tuple[KeyMap, ...]] = {
    "text_encoder": text_encoders.CLIP_L,
    "text_encoder_2": text_encoders.T5_XXL,
    "denoiser": denoiser(_denoiser),
    "vae_decoder": autoencoders.FLUX,
    "vae_encoder": autoencoders.FLUX,
}


SIGNATURES = (
    Signature(
        architecture="flux_dev",
        layout="bfl",
        tensors={
            "img_in.weight": (3072, 64),
            "double_blocks.18.img_attn.qkv.weight": (9216, 3072),
            "guidance_in.in_layer.weight": (3072, 256),
        },
    ),
    Signature(
        architecture="flux_schnell",
        layout="bfl",
        tensors={
            "img_in.weight": (3072, 64),
            "double_blocks.18.img_attn.qkv.weight": (9216, 3072),
            "vector_in.in_layer.weight": (3072, 768),
        },
        absent=("guidance_in.in_layer.weight",),
    ),
    Signature(
        architecture="flux_dev",
        layout="diffusers",
        tensors={
            "x_embedder.weight": (3072, 64),
            "transformer_blocks.18.attn.add_q_proj.weight": (3072, 3072),
            "time_text_embed.guidance_embedder.linear_1.weight": (3072, 256),
        },
    ),
    Signature(
        architecture="flux_schnell",
        layout="diffusers",
        tensors={
            "x_embedder.weight": (3072, 64),
            "transformer_blocks.18.attn.add_q_proj.weight": (3072, 3072),
            "time_text_embed.text_embedder.linear_1.weight": (3072, 768),
        },
        absent=("time_text_embed.guidance_embedder.linear_1.weight",),
    ),
)
