"""Z-Image in the layout of ComfyUI's files, that of Lumina 2; its makers publish the library's own.

Source: ComfyUI's comfy/ldm/lumina, for names alone. The tests hold the table to diffusers' converter.
"""

from __future__ import annotations

from collections.abc import Iterator

from trt_export.checkpoints.keymap import Entry, KeyMap
from trt_export.checkpoints.maps import autoencoders, text_encoders
from trt_export.checkpoints.maps.rows import DENOISER_PREFIXES, affine, row
from trt_export.checkpoints.signature import Signature


def maps(architecture: str, component: str) -> tuple[KeyMap, ...]:
    """The layouts of a component of Z-Image Turbo; () for any other."""
    return _COMPONENTS.get(component, ()) if architecture == "z_image_turbo" else ()


def _denoiser() -> Iterator[Entry]:
    yield from affine(
        ("x_embedder", "all_x_embedder.2-1"),
        ("final_layer.linear", "all_final_layer.2-1.linear"),
        ("final_layer.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1"),
        *((same, same) for same in ("t_embedder.mlp.0", "t_embedder.mlp.2", "cap_embedder.1")),
    )
    for same in ("cap_embedder.0.weight", "x_pad_token", "cap_pad_token"):
        yield row(same, same)
    for blocks in ("noise_refiner", "context_refiner", "layers"):
        yield from _block(f"{blocks}.{{}}")


def _block(block: str) -> Iterator[Entry]:
    attention = f"{block}.attention"
    yield row(f"{attention}.qkv.weight", *(f"{attention}.to_{part}.weight" for part in "qkv"))
    yield row(f"{attention}.out.weight", f"{attention}.to_out.0.weight")
    for part in "qk":
        yield row(f"{attention}.{part}_norm.weight", f"{attention}.norm_{part}.weight")
    norms = ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")
    for same in (*norms, *(f"feed_forward.w{number}" for number in (1, 2, 3))):
        yield row(f"{block}.{same}.weight", f"{block}.{same}.weight")
    yield from affine((f"{block}.adaLN_modulation.0", f"{block}.adaLN_modulation.0"))


_COMPONENTS: dict[str, tuple[KeyMap, ...]] = {
    "text_encoder": text_encoders.QWEN3_4B,
    "denoiser": (
        KeyMap(layout="comfy", prefixes=DENOISER_PREFIXES, entries=tuple(_denoiser()), unused=("norm_final.weight",)),
    ),
    "vae_decoder": autoencoders.FLUX,
    "vae_encoder": autoencoders.FLUX,
}


SIGNATURES = (
    Signature(  # both layouts have these names
        architecture="z_image_turbo",
        layout="original",
        tensors={
            "cap_embedder.1.weight": (3840, 2560),
            "noise_refiner.1.adaLN_modulation.0.weight": (15360, 256),
            "layers.29.feed_forward.w1.weight": (10240, 3840),
        },
    ),
)
