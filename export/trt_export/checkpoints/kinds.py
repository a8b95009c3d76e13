"""Files that are no checkpoint of a model, told by how they begin and by the names of their tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from trt_export.checkpoints.legacy import PICKLED
from trt_export.checkpoints.safetensors_file import StoredTensor, UnreadableCheckpoint, read_header

_HEAD = 512

Names = Iterable[str]


def _any(*parts: str) -> Callable[[Names], bool]:
    return lambda names: any(part in name for name in names for part in parts)


def _beginning(*beginnings: str) -> Callable[[Names], bool]:
    return lambda names: any(name.startswith(beginnings) for name in names)


KINDS: Mapping[str, Callable[[Names], bool]] = {
    "a LoRA: it changes a model and is none itself": _any(
        ".lora_up.", ".lora_down.", ".lora_A.", ".lora_B.", "lora_unet_", "lora_te", ".hada_w1_a", ".lokr_w1"
    ),
    "a ControlNet: it guides a model and is none itself": _any(
        "control_model.", "controlnet_cond_embedding", "controlnet_blocks.", "input_hint_block."
    ),
    "an IP adapter: it guides a model and is none itself": _beginning("image_proj.", "ip_adapter."),
    "a textual inversion: it adds words to a model and is none itself": lambda names: (
        set(names) <= {"emb_params", "clip_l", "clip_g", "<*>", "*"}
    ),
    "an upscaler": _beginning("conv_first.", "model.0.", "upsampler.", "body.0.rdb1"),
}
"""What a file is by the names of its tensors, where it has no denoiser."""

_DENOISER = ("model.diffusion_model.", "unet.", "diffusion_model.")

_AUTOENCODER = ("first_stage_model.decoder.", "decoder.conv_in.", "decoder.mid.", "vae.decoder.", "encoder.conv_in.")
_OF_AUTOENCODERS = ("first_stage_model.", "vae.", "encoder.", "decoder.", "quant_conv", "post_quant_conv", "bn.")
_OF_TEXT_ENCODERS = (
    "text_model.",
    "cond_stage_model.",
    "conditioner.",
    "transformer.",
    "encoder.",
    "shared.",
    "text_projection",
    "logit_scale",
)


def refuse_other_kinds(path: Path) -> None:
    """Say what a file is that is no checkpoint. Folders and pickles are left to whoever opens them.

    Raises: UnreadableCheckpoint: it is of another kind, or damaged; the message says which, and what to do.
    """
    if path.is_dir() or path.suffix.lower() in PICKLED:
        return
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UnreadableCheckpoint(f"{path} cannot be read: {error.strerror or error}") from error
    if head.startswith(b"GGUF"):
        raise UnreadableCheckpoint(
            f"{path} is a GGUF file, whose weights are packed in a way that no graph reads: take it as safetensors"
        )
    if head.lstrip()[:1] == b"<":
        raise UnreadableCheckpoint(
            f"{path} is a web page and no model: the download asked for a login or went to the wrong address. Download "
            "it again"
        )
    if (kind := kind_of(read_header(path))) is not None:
        raise UnreadableCheckpoint(f"{path} is {kind}. Nothing was written")


def kind_of(tensors: Mapping[str, StoredTensor]) -> str | None:
    """What a file is that has no denoiser, in words for people; None: it may be a checkpoint."""
    names = tuple(tensors)
    if any(name.startswith(_DENOISER) for name in names) and not _any(".lora_", "lora_unet_")(names):
        return None
    for kind, fits in KINDS.items():
        if names and fits(names):
            return kind
    if names and all(name.startswith(_OF_AUTOENCODERS) for name in names) and _beginning(*_AUTOENCODER)(names):
        return "an autoencoder (VAE) alone: name it with --network vae=FILE when adding the model that it belongs to"
    if names and all(name.startswith(_OF_TEXT_ENCODERS) for name in names):
        return "a text encoder alone: name it with --network text_encoder=FILE when adding the model that it belongs to"
    return None
