"""The layout of the original Stable Diffusion files, and the small variations of it that are met.

Sources: configs/stable-diffusion/*.yaml and ldm/modules/diffusionmodules of CompVis/stable-diffusion and
Stability-AI/generative-models. The tests hold the tables to diffusers' own converters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trt_export.checkpoints.keymap import Entry, KeyMap
from trt_export.checkpoints.maps import text_encoders
from trt_export.checkpoints.maps.rows import DENOISER_PREFIXES, affine, row
from trt_export.checkpoints.signature import Signature


def maps(architecture: str, component: str) -> tuple[KeyMap, ...]:
    """The layouts of a component of Stable Diffusion 1 and 2, SDXL and their variants; () for any other."""
    return _COMPONENTS.get(_FAMILIES.get(architecture, ""), {}).get(component, ())


def unet(attention: Sequence[bool], *, pooled: bool = False) -> KeyMap:
    """The table of a U-Net of two residual blocks a level.

    Args:
        attention: whether a level has transformers, from the finest; their depth shows in no name.
        pooled: a pooled prompt is embedded, as in SDXL.
    """
    return KeyMap(
        layout="ldm",
        prefixes=DENOISER_PREFIXES,
        entries=tuple(_unet(attention, pooled=pooled)),
    )


def _unet(attention: Sequence[bool], *, pooled: bool) -> Iterator[Entry]:
    levels = len(attention)
    yield from affine(
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("input_blocks.0.0", "conv_in"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
    )
    if pooled:
        yield from affine(
            ("label_emb.0.0", "add_embedding.linear_1"),
            ("label_emb.0.2", "add_embedding.linear_2"),
        )
    number = 1  # of the block in the file's numbering, which counts samplers on the way down and none on the way up
    for level in range(levels):
        block = f"down_blocks.{level}"
        for layer in range(LAYERS):
            yield from _residual(f"input_blocks.{number}.0", f"{block}.resnets.{layer}")
            if attention[level]:
                yield from _transformer(f"input_blocks.{number}.1", f"{block}.attentions.{layer}")
            number += 1
        if level < levels - 1:
            yield from affine((f"input_blocks.{number}.0.op", f"{block}.downsamplers.0.conv"))
            number += 1
    yield from _residual("middle_block.0", "mid_block.resnets.0")
    yield from _transformer("middle_block.1", "mid_block.attentions.0")
    yield from _residual("middle_block.2", "mid_block.resnets.1")
    number = 0
    for level, attends in enumerate(reversed(attention)):
        block = f"up_blocks.{level}"
        for layer in range(LAYERS + 1):
            yield from _residual(f"output_blocks.{number}.0", f"{block}.resnets.{layer}")
            if attends:
                yield from _transformer(f"output_blocks.{number}.1", f"{block}.attentions.{layer}")
            number += 1
        if level < levels - 1:
            after = 2 if attends else 1
            yield from affine((f"output_blocks.{number - 1}.{after}.conv", f"{block}.upsamplers.0.conv"))


def _residual(stored: str, library: str) -> Iterator[Entry]:
    return affine(
        (f"{stored}.in_layers.0", f"{library}.norm1"),
        (f"{stored}.in_layers.2", f"{library}.conv1"),
        (f"{stored}.emb_layers.1", f"{library}.time_emb_proj"),
        (f"{stored}.out_layers.0", f"{library}.norm2"),
        (f"{stored}.out_layers.3", f"{library}.conv2"),
        (f"{stored}.skip_connection", f"{library}.conv_shortcut"),
    )


def _transformer(stored: str, library: str) -> Iterator[Entry]:
    """A spatial transformer: the library kept the file's names inside."""
    block = "transformer_blocks.{}"
    attentions = [f"{block}.{attention}" for attention in ("attn1", "attn2")]
    biased = ("norm", "proj_in", "proj_out", *(f"{one}.to_out.0" for one in attentions))
    biased += tuple(f"{block}.{layer}" for layer in ("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2"))
    yield from affine(*((f"{stored}.{name}", f"{library}.{name}") for name in biased))
    for attention in attentions:
        for name in (f"{attention}.to_{part}.weight" for part in "qkv"):
            yield row(f"{stored}.{name}", f"{library}.{name}")


def autoencoder(*prefixes: str) -> tuple[KeyMap, ...]:
    """The tables of a KL autoencoder of four levels, also Flux's; its middle attention is stored as 1x1 convolutions.

    Args: prefixes: of the original layout, where they are not Stable Diffusion's.
    """
    rows = tuple(_autoencoder())
    names = [name for one in rows for name in one.library]
    old = tuple(row(_renamed(name), name) for name in names)
    before = prefixes or ("first_stage_model.", "vae.", "")
    return (
        KeyMap(layout="ldm", prefixes=before, entries=rows, whole=False),
        KeyMap(layout="diffusers before 0.18", prefixes=before, entries=old, whole=False),
    )


def _autoencoder() -> Iterator[Entry]:
    yield from affine(("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv"))
    for side in ("encoder", "decoder"):
        yield from affine(
            (f"{side}.conv_in", f"{side}.conv_in"),
            (f"{side}.norm_out", f"{side}.conv_norm_out"),
            (f"{side}.conv_out", f"{side}.conv_out"),
        )
        for number in range(2):
            yield from _plain_residual(f"{side}.mid.block_{number + 1}", f"{side}.mid_block.resnets.{number}")
        attention = (("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))
        yield from affine(
            *((f"{side}.mid.attn_1.{one}", f"{side}.mid_block.attentions.0.{other}") for one, other in attention)
        )
    yield from _plain_residual("encoder.down.{}.block.{}", "encoder.down_blocks.{}.resnets.{}")
    yield from affine(("encoder.down.{}.downsample.conv", "encoder.down_blocks.{}.downsamplers.0.conv"))
    for level in range(VAE_LEVELS):  # the file counts the way up from the finest level
        stored, library = f"decoder.up.{VAE_LEVELS - 1 - level}", f"decoder.up_blocks.{level}"
        yield from _plain_residual(f"{stored}.block.{{}}", f"{library}.resnets.{{}}")
        yield from affine((f"{stored}.upsample.conv", f"{library}.upsamplers.0.conv"))


def _plain_residual(stored: str, library: str) -> Iterator[Entry]:
    same = ((f"{stored}.{name}", f"{library}.{name}") for name in ("norm1", "conv1", "norm2", "conv2"))
    return affine(*same, (f"{stored}.nin_shortcut", f"{library}.conv_shortcut"))


def _renamed(name: str) -> str:
    """A library's parameter as the library called it before its attention blocks were merged into one class."""
    for now, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        name = name.replace(f".{now}.", f".{before}.")
    return name


LAYERS = 2
"""Residual blocks of a level, on the way down."""

VAE_LEVELS = 4

_FAMILIES = {
    "stable_diffusion_1": "1",
    "stable_diffusion_1_inpainting": "1",
    "stable_diffusion_2": "2",
    "stable_diffusion_2_v": "2",
    "stable_diffusion_2_inpainting": "2",
    "sdxl": "xl",
}
_VAE = autoencoder()
_DENOISER = (unet((True, True, True, False)),)
_COMPONENTS: dict[str, dict[str, tuple[KeyMap, ...]]] = {
    "1": {
        "text_encoder": text_encoders.clip_l("cond_stage_model."),
        "denoiser": _DENOISER,
        "vae_decoder": _VAE,
        "vae_encoder": _VAE,
    },
    "2": {
        "text_encoder": text_encoders.clip_h("cond_stage_model."),
        "denoiser": _DENOISER,
        "vae_decoder": _VAE,
        "vae_encoder": _VAE,
    },
    "xl": {
        "text_encoder": text_encoders.clip_l("conditioner.embedders.0."),
        "text_encoder_2": text_encoders.clip_g("conditioner.embedders.1."),
        "denoiser": (unet((False, True, True), pooled=True),),
        "vae_decoder": _VAE,
        "vae_encoder": _VAE,
    },
}


def _unets() -> tuple[Signature, ...]:
    """Stable Diffusion by the channels that go in and the width of the text, in both layouts."""
    layouts = (
        ("ldm", "input_blocks.0.0.weight", "input_blocks.1.1", "label_emb.0.0.weight"),
        ("diffusers", "conv_in.weight", "down_blocks.0.attentions.0", "add_embedding.linear_1.weight"),
    )
    found = []
    for version, width in ((1, 768), (2, 1024)):
        for suffix, channels in (("", 4), ("_inpainting", 9)):
            for layout, first, block, pooled in layouts:
                keys = {
                    first: (320, channels, 3, 3),
                    f"{block}.transformer_blocks.0.attn2.to_k.weight": (320, width),
                }
                found.append(
                    Signature(
                        architecture=f"stable_diffusion_{version}{suffix}",
                        layout=layout,
                        tensors=keys,
                        absent=(pooled,),
                    )
                )
    return tuple(found)


SIGNATURES = (
    *_unets(),
    Signature(
        architecture="sdxl",
        layout="ldm",
        tensors={
            "input_blocks.0.0.weight": (320, 4, 3, 3),
            "label_emb.0.0.weight": (1280, 2816),
            "input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
        },
    ),
    Signature(
        architecture="sdxl",
        layout="diffusers",
        tensors={
            "conv_in.weight": (320, 4, 3, 3),
            "add_embedding.linear_1.weight": (1280, 2816),
            "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
        },
        absent=("time_embedding.cond_proj.weight",),  # guidance as an input, as in latent consistency models
    ),
)
