"""Autoencoders of the flow families.

Sources: black-forest-labs/flux and flux2 (their `autoencoder.py`), diffusers' scripts/convert_flux2_to_diffusers.py,
and Wan-Video/Wan2.1's `vae.py`, whose names Qwen-Image's file has. The tests hold Flux' and Qwen-Image's tables to
diffusers' converters; for FLUX.2, of which the installed diffusers has none, only what it shares with Flux. No table
here was held to a published file.
"""

from __future__ import annotations

from collections.abc import Iterator

from trt_export.checkpoints.keymap import Entry, KeyMap
from trt_export.checkpoints.maps.ldm import autoencoder
from trt_export.checkpoints.maps.rows import affine, row

PREFIXES = ("vae.", "first_stage_model.", "")

FLUX = autoencoder(*PREFIXES)
"""Of Flux.1, Chroma and Z-Image: the oldest layout there is, with sixteen channels."""


def _flux2() -> tuple[KeyMap, ...]:
    rows = FLUX[0].entries + tuple(row(f"bn.running_{name}", f"bn.running_{name}") for name in ("mean", "var"))
    nested = affine(("encoder.quant_conv", "quant_conv"), ("decoder.post_quant_conv", "post_quant_conv"))
    outer = tuple(one for one in rows if "quant_conv" not in one.stored)
    unused = ("bn.num_batches_tracked",)
    return (
        KeyMap(layout="bfl", prefixes=PREFIXES, entries=(*outer, *nested), unused=unused, whole=False),
        KeyMap(
            layout="comfy", prefixes=PREFIXES, entries=rows, unused=unused, whole=False
        ),  # as ComfyUI saves what it loaded
    )


FLUX2 = _flux2()
"""Of FLUX.2: quantisers inside of encoder and decoder, and the whitening of latents as a BatchNorm's statistics."""


def _wan() -> KeyMap:
    rows = [*affine(("conv1", "quant_conv"), ("conv2", "post_quant_conv"))]
    for side in ("encoder", "decoder"):
        rows += affine((f"{side}.conv1", f"{side}.conv_in"), (f"{side}.head.2", f"{side}.conv_out"))
        rows.append(row(f"{side}.head.0.gamma", f"{side}.norm_out.gamma"))
        for number in range(2):
            rows += _wan_residual(f"{side}.middle.{2 * number}", f"{side}.mid_block.resnets.{number}")
        stored, library = f"{side}.middle.1", f"{side}.mid_block.attentions.0"
        rows.append(row(f"{stored}.norm.gamma", f"{library}.norm.gamma"))
        rows += affine(*((f"{stored}.{layer}", f"{library}.{layer}") for layer in ("to_qkv", "proj")))
    rows += _wan_residual("encoder.downsamples.{}", "encoder.down_blocks.{}")
    rows += affine(("encoder.downsamples.{}.resample.1", "encoder.down_blocks.{}.resample.1"))
    number = 0  # of the block in the file's numbering, which goes on from level to level
    for level in range(WAN_LEVELS):
        for layer in range(WAN_LAYERS):
            rows += _wan_residual(f"decoder.upsamples.{number}", f"decoder.up_blocks.{level}.resnets.{layer}")
            number += 1
        if level < WAN_LEVELS - 1:
            sampler = f"decoder.up_blocks.{level}.upsamplers.0.resample.1"
            rows += affine((f"decoder.upsamples.{number}.resample.1", sampler))
            number += 1
    past = (  # what frames with a past go through, by the file's names and by the library's
        *("encoder.downsamples.{}", "decoder.upsamples.{}"),
        *("encoder.down_blocks.{}", "decoder.up_blocks.{}.upsamplers.{}"),
    )
    unused = tuple(f"{block}.time_conv.{kind}" for block in past for kind in ("weight", "bias"))
    return KeyMap(layout="wan", prefixes=PREFIXES, entries=tuple(rows), unused=unused, whole=False)


def _wan_residual(stored: str, library: str) -> Iterator[Entry]:
    for number, name in ((0, "norm1"), (3, "norm2")):
        yield row(f"{stored}.residual.{number}.gamma", f"{library}.{name}.gamma")
    yield from affine(
        (f"{stored}.residual.2", f"{library}.conv1"),
        (f"{stored}.residual.6", f"{library}.conv2"),
        (f"{stored}.shortcut", f"{library}.conv_shortcut"),
    )


WAN_LEVELS = 4

WAN_LAYERS = 3
"""Residual blocks of a level, on the way up; in a network of fewer, numbers are left out."""

QWEN_IMAGE = (_wan(),)
"""Of Qwen-Image and Krea 2: Wan's video autoencoder, trained for pictures."""
