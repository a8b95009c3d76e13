"""What architecture a checkpoint is of, by a few names and shapes of its denoiser.

Nothing else of a file is asked: metadata is free text, and absent in most. So a fine-tune is its base model, and so is
a model that was only trained otherwise: the undistilled Z-Image, Krea 2 and FLUX.2 Klein have the shapes, and with them
the graphs, of the distilled ones that are known here; guidance and steps are the recipe's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trt_export.checkpoints.checkpoint import Checkpoint, Tensors
from trt_export.checkpoints.maps.registry import SIGNATURES
from trt_export.checkpoints.maps.rows import DENOISER_PREFIXES
from trt_export.checkpoints.published import DENOISERS, published_file
from trt_export.checkpoints.quantised import PACKED, quantisation, refusal
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
from trt_export.checkpoints.signature import Shape, Signature

TWINS: Mapping[str, tuple[str, ...]] = {
    "stable_diffusion_2": ("stable_diffusion_2_v",),
    "flux_dev": ("flux_krea_dev",),
}
"""Architectures whose files have the same names and shapes as another's: somebody must name them, or the values of
their weights tell them apart."""

STRANGERS: Mapping[str, tuple[str, ...]] = {"flux_dev": ("Flux.1 Kontext dev",)}
"""Models that have the names and shapes of an architecture as well, and are none that is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """A model that is known and not served."""

    signature: Signature  # its `architecture` is a name for people
    instead: str  # what to do


def detect(checkpoint: Checkpoint) -> str:
    """The name of a checkpoint's architecture, of TWINS the first. Only headers are read.

    Raises: UnreadableCheckpoint: it is of none that is known, or its denoiser is stored in a way that no graph reads;
        the message says what it is, or what is nearest, and what to take instead.
    """
    tensors = checkpoint.of("denoiser")
    nearest: tuple[float, Signature, str] | None = None
    for signature in SIGNATURES:
        for prefix in DENOISER_PREFIXES:
            found = differences(signature, tensors, prefix)
            if not found:
                _readable(signature, tensors, prefix)
                return signature.architecture
            share = len(found) / len(signature.tensors)
            alike = any(prefix + name in tensors for name in signature.tensors)
            if alike and (nearest is None or share < nearest[0]):
                nearest = (share, signature, found[0])
    _refuse_relative(checkpoint)
    known = ", ".join(dict.fromkeys(signature.architecture for signature in SIGNATURES))
    if nearest is None:
        reason = f"none of the names by which architectures are known is among its {len(tensors)} tensors"
    else:
        reason = f"nearest is {nearest[1].architecture} in the {nearest[1].layout} layout, but {nearest[2]}"
    if kind := quantisation(tensors):
        reason += f"; its weights are stored as {kind}, which engines do not read"
    raise UnreadableCheckpoint(
        f"{checkpoint.path} is of no known architecture: {reason}. Known are {known}; if it is one of these all the "
        "same, name it with --architecture"
    )


def _readable(signature: Signature, tensors: Tensors, prefix: str) -> None:
    """Fail if a denoiser is stored in a way that no graph reads."""
    files = {tensors[prefix + name].file for name in signature.tensors}
    own = {name: one for name, one in tensors.items() if name.startswith(prefix) and one.file in files}
    if kind := quantisation(own):
        name = signature.architecture
        raise UnreadableCheckpoint(refusal(kind, f"the denoiser of {name}", own, published_file(name, "denoiser")))


def _refuse_relative(checkpoint: Checkpoint) -> None:
    """Fail if a checkpoint is of a model that is known and not served."""
    tensors = checkpoint.of("denoiser")
    for relative in RELATIVES:
        for prefix in DENOISER_PREFIXES:
            if not differences(relative.signature, tensors, prefix):
                raise UnreadableCheckpoint(
                    f"{checkpoint.path} is {relative.signature.architecture}: {relative.instead}"
                )


def unsaid(architecture: str) -> str | None:
    """What the files of an architecture cannot say of themselves, as a sentence for people; None: nothing."""
    twins, strangers = TWINS.get(architecture, ()), STRANGERS.get(architecture, ())
    if not twins and not strangers:
        return None
    names = " or ".join((*twins, *strangers))
    told = f"the checkpoint has the same names and shapes as one of {names}; it is taken for {architecture}"
    if twins:
        told += f". If it is not, say so: --architecture {twins[0]}"
    if strangers:
        told += f". {' and '.join(strangers)} is not served: it draws from a picture, and this would not"
    return told


def differences(signature: Signature, tensors: Tensors, prefix: str) -> Sequence[str]:
    """What keeps tensors from having a signature, one clause each; nothing: they have it.

    Shapes of packed weights say nothing, and are not compared.
    """
    found = []
    for name, shape in signature.tensors.items():
        there = tensors.get(prefix + name)
        if there is None:
            found.append(f"{prefix}{name} is missing")
        elif there.shape != shape and there.dtype not in PACKED:
            found.append(f"{prefix}{name} is {there.shape} and not {shape}")
    found += [f"{prefix}{name} is there" for name in signature.absent if prefix + name in tensors]
    return found


def _relative(title: str, tensors: Mapping[str, Shape], instead: str, *absent: str) -> Relative:
    return Relative(signature=Signature(architecture=title, layout="", tensors=tensors, absent=absent), instead=instead)


_KLEIN = f"no engines are built for it; take FLUX.2 Klein 4B: {DENOISERS['flux2_klein_4b']}"
_DEV = f"no engines are built for it; take Flux.1 dev: {DENOISERS['flux_dev']}"
_XL = f"no engines are built for it; take plain SDXL: {DENOISERS['sdxl']}"

RELATIVES: tuple[Relative, ...] = (
    _relative(
        "stage B of Stable Cascade",
        {"effnet_mapper.0.weight": (1280, 16, 1, 1), "clip_mapper.weight": (5120, 1280)},
        f"it is one of two denoisers; name stage C ({DENOISERS['stable_cascade'].partition(': ')[2]}) as the model, "
        "and this file as --network denoiser_stage_b=FILE and --network vae=FILE",
    ),
    _relative("FLUX.2 Klein 9B", {"img_in.weight": (4096, 128), "txt_in.weight": (4096, 12288)}, _KLEIN),
    _relative("FLUX.2 Klein 9B", {"x_embedder.weight": (4096, 128), "context_embedder.weight": (4096, 12288)}, _KLEIN),
    _relative("FLUX.2 dev", {"img_in.weight": (6144, 128), "txt_in.weight": (6144, 15360)}, _KLEIN),
    _relative("FLUX.2 dev", {"x_embedder.weight": (6144, 128), "context_embedder.weight": (6144, 15360)}, _KLEIN),
    _relative("Flux.1 Fill dev", {"img_in.weight": (3072, 384), "guidance_in.in_layer.weight": (3072, 256)}, _DEV),
    _relative(
        "Flux.1 Canny or Depth dev", {"img_in.weight": (3072, 128), "guidance_in.in_layer.weight": (3072, 256)}, _DEV
    ),
    _relative("SDXL's refiner", {"input_blocks.0.0.weight": (384, 4, 3, 3), "label_emb.0.0.weight": (1536, 2560)}, _XL),
    _relative(
        "a latent consistency model of SDXL",
        {"conv_in.weight": (320, 4, 3, 3), "time_embedding.cond_proj.weight": (320, 256)},
        "its guidance is an input of the network, and " + _XL,
    ),
)
"""Models that are known and not served, each with what to take."""
