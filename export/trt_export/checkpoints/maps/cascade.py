"""The layouts of Stable Cascade's files: its authors', one for each stage, and ComfyUI's, with more networks.

Sources: modules/ of Stability-AI/StableCascade for the names; ComfyUI's loader for its prefixes. The library kept
nearly all names: the tables are its patterns, and what differs. The tests hold them to diffusers' own converter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trt_export.checkpoints.keymap import Entry, KeyMap
from trt_export.checkpoints.maps import text_encoders
from trt_export.checkpoints.signature import Signature


def maps(architecture: str, component: str) -> tuple[KeyMap, ...]:
    """The layouts of a component of Stable Cascade; () for any other."""
    return _COMPONENTS.get(component, ()) if architecture == "stable_cascade" else ()


def unets(pooled_mapper: str) -> tuple[KeyMap, ...]:
    """The tables of a stage's U-Net, its attention joined in one tensor, and in three as ComfyUI writes it.

    Args: pooled_mapper: what the file calls the layer that takes the pooled text.
    """
    rows = tuple(_unet(pooled_mapper))
    return tuple(
        KeyMap(layout=layout, prefixes=("model.diffusion_model.", "diffusion_model.", ""), entries=(*rows, *attention))
        for layout, attention in (("original", tuple(_joined())), ("comfy", tuple(_parted())))
    )


def _unet(pooled_mapper: str) -> Iterator[Entry]:
    for kind in ("weight", "bias"):
        yield Entry(stored=f"{pooled_mapper}.{kind}", library=(f"clip_txt_pooled_mapper.{kind}",))
    yield from _affine("clip_txt_mapper", "clip_img_mapper", "effnet_mapper.{}", "pixels_mapper.{}", "embedding.1")
    yield from _affine("clf.1")
    for way in ("down", "up"):
        block = f"{way}_blocks.{{}}.{{}}"
        yield from _affine(*(f"{block}.{layer}" for layer in ("depthwise", "channelwise.{}", "kv_mapper.1")))
        yield from _affine(*(f"{block}.{layer}" for layer in ("mapper", "mapper_sca", "mapper_crp")))
        yield from _same(f"{block}.channelwise.{{}}.gamma", f"{block}.channelwise.{{}}.beta")
        scaler = f"{way}_{way}scalers.{{}}"
        yield from _affine(f"{scaler}.1", f"{scaler}.1.blocks.{{}}", f"{way}_repeat_mappers.{{}}.{{}}")


def _joined() -> Iterator[Entry]:
    for way in ("down", "up"):
        attention = f"{way}_blocks.{{}}.{{}}.attention"
        for kind in ("weight", "bias"):
            parts = tuple(f"{attention}.to_{part}.{kind}" for part in "qkv")
            yield Entry(stored=f"{attention}.attn.in_proj_{kind}", library=parts)
            yield Entry(stored=f"{attention}.attn.out_proj.{kind}", library=(f"{attention}.to_out.0.{kind}",))


def _parted() -> Iterator[Entry]:
    for way in ("down", "up"):
        attention = f"{way}_blocks.{{}}.{{}}.attention"
        for stored, library in (("to_q", "to_q"), ("to_k", "to_k"), ("to_v", "to_v"), ("out_proj", "to_out.0")):
            for kind in ("weight", "bias"):
                yield Entry(stored=f"{attention}.attn.{stored}.{kind}", library=(f"{attention}.{library}.{kind}",))


def _stage_a() -> Iterator[Entry]:
    yield from _affine("in_block.1", "out_block.0")
    for way in ("down", "up"):
        block = f"{way}_blocks.{{}}"
        yield from _affine(block, f"{block}.0", f"{block}.depthwise.1", f"{block}.channelwise.{{}}")
        yield from _same(f"{block}.gammas")
    yield from _norm("down_blocks.{}.1")


def _efficientnet() -> Iterator[Entry]:
    block = "backbone.{}.{}.block.{}"
    yield from _same("backbone.{}.0.weight", f"{block}.0.weight", "mapper.0.weight")
    yield from _norm("backbone.{}.1")
    yield from _norm(f"{block}.1")
    yield from _affine(f"{block}.fc1", f"{block}.fc2")
    yield from _same("mapper.1.running_mean", "mapper.1.running_var")


def _norm(name: str) -> Iterator[Entry]:
    """A batch norm, its statistics included."""
    yield from _affine(name)
    yield from _same(f"{name}.running_mean", f"{name}.running_var")


def _affine(*names: str) -> Iterator[Entry]:
    """Layers of one name on both sides, with a weight and a bias (a row that nothing asks for is no harm)."""
    yield from _same(*(f"{name}.{kind}" for name in names for kind in ("weight", "bias")))


def _same(*names: str) -> Iterator[Entry]:
    return (Entry(stored=name, library=(name,)) for name in names)


def _table(prefix: str, rows: Iterable[Entry], *unused: str, beside: tuple[str, ...] = ()) -> tuple[KeyMap, ...]:
    table = KeyMap(
        layout="original", prefixes=(prefix, ""), entries=tuple(rows), unused=unused, beside=beside, whole=False
    )
    return (table,)


_STAGE_A = _table("vae.", _stage_a(), "down_blocks.{}.1.num_batches_tracked", beside=("vquantizer.",))
_COMPONENTS: dict[str, tuple[KeyMap, ...]] = {
    "text_encoder": text_encoders.clip_g("text_encoder.clip_g.", saved=True),
    "denoiser": unets("clip_txt_pooled_mapper"),
    "denoiser_stage_b": unets("clip_mapper"),
    "vae_decoder": _STAGE_A,
    "vae_encoder": _STAGE_A,
    "effnet_encoder": _table("vae.encoder.", _efficientnet(), "mean", "std"),
}


SIGNATURES = (
    Signature(
        architecture="stable_cascade",
        layout="original",
        tensors={"clip_txt_mapper.weight": (2048, 1280), "down_blocks.0.0.channelwise.0.weight": (8192, 2048)},
    ),
)
