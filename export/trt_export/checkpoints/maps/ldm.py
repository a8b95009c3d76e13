"""The layout of the original Stable Diffusion files, and the small variations of it that are met.

Sources: configs/stable-diffusion/*.yaml and ldm/modules/diffusionmodules of CompVis/stable-diffusion and
Stability-AI/generative-models; open_clip's `TextTransformer`. The tests hold the tables to diffusers' own converters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trt_export.checkpoints.keymap import Change, Entry, KeyMap
from trt_export.checkpoints.maps.rows import DENOISER_PREFIXES, affine, row


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
    return (
        KeyMap(layout="ldm", prefixes=prefixes or ("first_stage_model.", "vae.", ""), entries=rows),
        KeyMap(layout="diffusers before 0.18", prefixes=("",), entries=old),
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


def clip(*prefixes: str, inner: str = "") -> KeyMap:
    """CLIP under the names of its library, behind what files put in front of them.

    Args: prefixes: what stands in front of "embeddings", "encoder" and "final_layer_norm".
        inner: what the library's class puts there.
    """
    names = tuple(_clip_names())
    return KeyMap(
        layout="transformers",
        prefixes=prefixes,
        entries=tuple(row(name, inner + name) for name in names),
        unused=("embeddings.position_ids",),
    )


def _clip_names() -> Iterator[str]:
    yield from ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight")
    attention = (f"self_attn.{part}_proj" for part in ("q", "k", "v", "out"))
    layers = ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2", *attention)
    for layer in (*(f"encoder.layers.{{}}.{layer}" for layer in layers), "final_layer_norm"):
        yield from (f"{layer}.weight", f"{layer}.bias")


def open_clip(*prefixes: str, inner: str = "", projected: bool = False) -> KeyMap:
    """OpenCLIP's text transformer: queries, keys and values in one tensor, and the projection turned.

    Args: inner: what the library's class puts in front of its parameters. projected: it is read at all.
    """
    renamed = (
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
        ("attn.out_proj", "self_attn.out_proj"),
    )
    block, layer = "transformer.resblocks.{}", f"{inner}encoder.layers.{{}}"
    rows = [
        row("token_embedding.weight", f"{inner}embeddings.token_embedding.weight"),
        row("positional_embedding", f"{inner}embeddings.position_embedding.weight"),
        *affine(("ln_final", f"{inner}final_layer_norm")),
        *affine(*((f"{block}.{stored}", f"{layer}.{library}") for stored, library in renamed)),
    ]
    for kind in ("weight", "bias"):
        parts = (f"{layer}.self_attn.{part}_proj.{kind}" for part in "qkv")
        rows.append(row(f"{block}.attn.in_proj_{kind}", *parts))
    if projected:
        rows.append(Entry(stored="text_projection", library=("text_projection.weight",), change=Change.TRANSPOSED))
    unused = ("logit_scale", "attn_mask", *(() if projected else ("text_projection",)))
    return KeyMap(layout="open_clip", prefixes=prefixes, entries=tuple(rows), unused=unused)


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
        "text_encoder": (
            clip(
                "cond_stage_model.transformer.text_model.",
                "cond_stage_model.transformer.",  # of files that went through newer versions of the library
                "text_encoders.clip_l.transformer.text_model.",
                "text_model.",
            ),
        ),
        "denoiser": _DENOISER,
        "vae_decoder": _VAE,
        "vae_encoder": _VAE,
    },
    "2": {
        "text_encoder": (open_clip("cond_stage_model.model.", ""), clip("text_model.")),
        "denoiser": _DENOISER,
        "vae_decoder": _VAE,
        "vae_encoder": _VAE,
    },
    "xl": {
        "text_encoder": (
            clip(
                "conditioner.embedders.0.transformer.text_model.",
                "text_encoders.clip_l.transformer.text_model.",
                "text_model.",
            ),
        ),
        "text_encoder_2": (open_clip("conditioner.embedders.1.model.", "", inner="text_model.", projected=True),),
        "denoiser": (unet((False, True, True), pooled=True),),
        "vae_decoder": _VAE,
        "vae_encoder": _VAE,
    },
}
