"""Krea 2 in the layout of its original files, which ComfyUI's keep.

Source: names and shapes of the headers of Comfy-Org/Krea-2's files, as public loaders record them. The tests hold the
table to diffusers' converter.
"""

from __future__ import annotations

from collections.abc import Iterator

from trt_export.checkpoints.keymap import Change, Entry, KeyMap
from trt_export.checkpoints.maps import autoencoders, text_encoders
from trt_export.checkpoints.maps.rows import DENOISER_PREFIXES, affine, row
from trt_export.checkpoints.signature import Signature


def maps(architecture: str, component: str) -> tuple[KeyMap, ...]:
    """The layouts of a component of Krea 2 Turbo; () for any other."""
    return _COMPONENTS.get(component, ()) if architecture == "krea_2_turbo" else ()


def _denoiser() -> Iterator[Entry]:
    yield from affine(
        ("first", "img_in"),
        ("tmlp.0", "time_embed.linear_1"),
        ("tmlp.2", "time_embed.linear_2"),
        ("tproj.1", "time_mod_proj"),
        ("txtmlp.1", "txt_in.linear_1"),
        ("txtmlp.3", "txt_in.linear_2"),
        ("last.linear", "final_layer.linear"),
    )
    for stored, library in (
        ("txtmlp.0.scale", "txt_in.norm.weight"),
        ("txtfusion.projector.weight", "text_fusion.projector.weight"),
        ("last.norm.scale", "final_layer.norm.weight"),
        ("last.modulation.lin", "final_layer.scale_shift_table"),
    ):
        yield row(stored, library)
    yield Entry(
        stored="blocks.{}.mod.lin", library=("transformer_blocks.{}.scale_shift_table",), change=Change.FLATTENED
    )
    yield from _block("blocks.{}", "transformer_blocks.{}")
    for blocks in ("layerwise_blocks", "refiner_blocks"):
        yield from _block(f"txtfusion.{blocks}.{{}}", f"text_fusion.{blocks}.{{}}")


def _block(stored: str, library: str) -> Iterator[Entry]:
    layers = (("wq", "to_q"), ("wk", "to_k"), ("wv", "to_v"), ("wo", "to_out.0"), ("gate", "to_gate"))
    for one, other in layers:
        yield row(f"{stored}.attn.{one}.weight", f"{library}.attn.{other}.weight")
    for part in ("gate", "up", "down"):
        yield row(f"{stored}.mlp.{part}.weight", f"{library}.ff.{part}.weight")
    norms = (
        ("attn.qknorm.qnorm", "attn.norm_q"),
        ("attn.qknorm.knorm", "attn.norm_k"),
        ("prenorm", "norm1"),
        ("postnorm", "norm2"),
    )
    for one, other in norms:
        yield row(f"{stored}.{one}.scale", f"{library}.{other}.weight")


_COMPONENTS: dict[str, tuple[KeyMap, ...]] = {
    "text_encoder": text_encoders.QWEN3_VL_4B,
    "denoiser": (
        KeyMap(
            layout="original",
            prefixes=DENOISER_PREFIXES,
            entries=tuple(_denoiser()),
            unused=("last.up.weight", "last.down.weight"),
        ),
    ),
    "vae_decoder": autoencoders.QWEN_IMAGE,
    "vae_encoder": autoencoders.QWEN_IMAGE,
}


SIGNATURES = (
    Signature(
        architecture="krea_2_turbo",
        layout="original",
        tensors={"first.weight": (6144, 64), "txtfusion.projector.weight": (1, 12)},
    ),
    Signature(
        architecture="krea_2_turbo",
        layout="diffusers",
        tensors={"img_in.weight": (6144, 64), "text_fusion.projector.weight": (1, 12)},
    ),
)
