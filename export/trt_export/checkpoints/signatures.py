"""What architecture a checkpoint is of, by a few names and shapes of its denoiser.

Nothing else of a file is asked: metadata is free text, and absent in most. So a fine-tune is its base model, and so is
a model that was only trained otherwise: the undistilled Z-Image, Krea 2 and FLUX.2 Klein have the shapes, and with them
the graphs, of the distilled ones that are known here; guidance and steps are the recipe's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trt_export.checkpoints.checkpoint import Checkpoint
from trt_export.checkpoints.maps.rows import DENOISER_PREFIXES
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Tensors that the denoisers of an architecture have, in one layout, and that no other has all of."""

    architecture: str
    layout: str
    tensors: Mapping[str, Shape]
    absent: tuple[str, ...] = ()  # what a relative has beside them


TWINS: Mapping[str, tuple[str, ...]] = {
    "stable_diffusion_2": ("stable_diffusion_2_v",),
    "flux_dev": ("flux_krea_dev",),
}
"""Architectures whose files have the same names and shapes as another's: somebody must name them."""


def detect(checkpoint: Checkpoint) -> str:
    """The name of a checkpoint's architecture, of TWINS the first.

    Raises: UnreadableCheckpoint: it is of none that is known; the message names the nearest and what differs.
    """
    tensors = {name: stored.shape for name, stored in checkpoint.of("denoiser").items()}
    nearest: tuple[float, Signature, str] | None = None
    for signature in SIGNATURES:
        for prefix in DENOISER_PREFIXES:
            found = differences(signature, tensors, prefix)
            if not found:
                return signature.architecture
            share = len(found) / len(signature.tensors)
            alike = any(prefix + name in tensors for name in signature.tensors)
            if alike and (nearest is None or share < nearest[0]):
                nearest = (share, signature, found[0])
    known = ", ".join(dict.fromkeys(signature.architecture for signature in SIGNATURES))
    if nearest is None:
        reason = f"none of the names by which architectures are known is among its {len(tensors)} tensors"
    else:
        reason = f"nearest is {nearest[1].architecture} in the {nearest[1].layout} layout, but {nearest[2]}"
    raise UnreadableCheckpoint(
        f"{checkpoint.path} is of no known architecture: {reason}. Known are {known}; if it is one of these all the "
        "same, name it with --architecture"
    )


def unsaid(architecture: str) -> str | None:
    """What the files of an architecture cannot say of themselves, as a sentence for people; None: nothing."""
    if twins := TWINS.get(architecture):
        names = " or ".join(twins)
        return (
            f"the checkpoint has the same names and shapes as one of {names}; it is taken for {architecture}. If it is "
            f"not, say so: --architecture {twins[0]}"
        )
    return None


def differences(signature: Signature, tensors: Mapping[str, Shape], prefix: str) -> Sequence[str]:
    """What keeps tensors from having a signature, one clause each; nothing: they have it."""
    found = []
    for name, shape in signature.tensors.items():
        there = tensors.get(prefix + name)
        if there is None:
            found.append(f"{prefix}{name} is missing")
        elif there != shape:
            found.append(f"{prefix}{name} is {there} and not {shape}")
    found += [f"{prefix}{name} is there" for name in signature.absent if prefix + name in tensors]
    return found


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


SIGNATURES: tuple[Signature, ...] = (
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
    Signature(
        architecture="stable_cascade",
        layout="original",
        tensors={"clip_txt_mapper.weight": (2048, 1280), "down_blocks.0.0.channelwise.0.weight": (8192, 2048)},
    ),
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
        architecture="chroma",
        layout="bfl",
        tensors={
            "img_in.weight": (3072, 64),
            "double_blocks.18.img_attn.qkv.weight": (9216, 3072),
            "distilled_guidance_layer.in_proj.weight": (5120, 64),
        },
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
    Signature(
        architecture="chroma",
        layout="diffusers",
        tensors={
            "x_embedder.weight": (3072, 64),
            "transformer_blocks.18.attn.add_q_proj.weight": (3072, 3072),
            "distilled_guidance_layer.in_proj.weight": (5120, 64),
        },
    ),
    Signature(  # both layouts have these names
        architecture="z_image_turbo",
        layout="original",
        tensors={
            "cap_embedder.1.weight": (3840, 2560),
            "noise_refiner.1.adaLN_modulation.0.weight": (15360, 256),
            "layers.29.feed_forward.w1.weight": (10240, 3840),
        },
    ),
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
"""One row for each architecture and layout."""
