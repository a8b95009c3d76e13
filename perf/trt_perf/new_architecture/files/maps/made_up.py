"""Made Up in the layout that it is published in: all networks in one file."""

from __future__ import annotations

from trt_export.checkpoints.keymap import KeyMap
from trt_export.checkpoints.maps.rows import DENOISER_PREFIXES, affine, row
from trt_export.checkpoints.signature import Signature

_LAYERS = ("conv_in", "conv_out", "text", "pooled", "time", "guidance")
_HALVES = KeyMap(
    layout="made up",
    prefixes=("first_stage_model.",),
    entries=tuple(affine(*((name, name) for name in ("decoder", "encoder")))),
    whole=False,
)
_TABLES = {
    "text_encoder": KeyMap(
        layout="made up", prefixes=("cond_stage_model.",), entries=(row("tokens.weight", "tokens.weight"),)
    ),
    "denoiser": KeyMap(
        layout="made up", prefixes=DENOISER_PREFIXES, entries=tuple(affine(*((name, name) for name in _LAYERS)))
    ),
    "vae_decoder": _HALVES,
    "vae_encoder": _HALVES,
}


def maps(architecture: str, component: str) -> tuple[KeyMap, ...]:
    """The layout of a network of Made Up; () for any other."""
    return (_TABLES[component],) if architecture == "made_up" and component in _TABLES else ()


SIGNATURES = (
    Signature(
        architecture="made_up",
        layout="made up",
        tensors={"conv_in.weight": (16, 8, 3, 3), "guidance.weight": (16, 16), "pooled.weight": (16, 16)},
    ),
)
