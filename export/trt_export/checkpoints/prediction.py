"""What a checkpoint says of its own prediction: by empty tensors with telling names, or by its scheduler's file.

Sources: the names of the tensors are those that ComfyUI's comfy/supported_models looks for; the scheduler's are
diffusers'. Stable Diffusion 2.1 says nothing, and is told by the spread of one bias, as ComfyUI does it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trt_export.checkpoints.checkpoint import Checkpoint, Tensors
from trt_export.checkpoints.maps.rows import DENOISER_PREFIXES
from trt_export.checkpoints.published import DENOISERS
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint, read_bytes
from trt_export.checkpoints.scales import FLOATS

SCHEDULER = Path("scheduler", "scheduler_config.json")

EPSILON, V = "epsilon", "v_prediction"

TELLING_BIASES = (
    "output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
)
"""The same bias in the layout of the files and in the library's."""

SPREAD_OF_V = 0.09
"""Standard deviation above which that bias is of a Stable Diffusion 2.1 that predicts the velocity."""

EDM_TENSORS = (
    ("edm_vpred.", "CosXL: its noise levels are EDM's, with velocities"),
    ("edm_mean", "Playground 2.5: its latents and noise levels are EDM's"),
    ("edm_std", "Playground 2.5: its latents and noise levels are EDM's"),
)
"""Beginnings of names, and what has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A checkpoint's own word on what its network predicts."""

    prediction: str | None = None  # "epsilon" or "v_prediction"; None: it says nothing
    zero_terminal_snr: bool = False  # noise levels end in pure noise: betas are rescaled to a signal of none


def said(checkpoint: Checkpoint) -> Said:
    """What a checkpoint of Stable Diffusion says. Raises: UnreadableCheckpoint: it is of a kind that is not served."""
    tensors = checkpoint.of("denoiser")
    for beginning, what in EDM_TENSORS:
        if name := next((key for key in tensors if key.startswith(beginning)), None):
            raise UnreadableCheckpoint(
                f"{checkpoint.path}: {name} says that this is {what}; no schedule here has them. Take a checkpoint of "
                f"plain SDXL, such as {DENOISERS['sdxl']}"
            )
    configured = _configured(checkpoint.path / SCHEDULER)
    return Said(
        prediction=V if "v_pred" in tensors else configured.prediction,
        zero_terminal_snr="ztsnr" in tensors or configured.zero_terminal_snr,
    )


def _configured(file: Path) -> Said:
    """What the scheduler's file of a diffusers folder says; nothing where there is none."""
    if not file.is_file():
        return Said()
    try:
        read: Any = json.loads(file.read_bytes())
        kind, prediction = str(read.get("_class_name", "")), read.get("prediction_type")
        rescaled = bool(read.get("rescale_betas_zero_snr", False))
    except (OSError, ValueError, AttributeError, RecursionError) as exc:
        raise UnreadableCheckpoint(f"{file} cannot be read as a scheduler's configuration: {exc}") from exc
    if kind.startswith("EDM") or prediction not in (None, EPSILON, V):
        raise UnreadableCheckpoint(
            f"{file}: a model of {kind or 'a scheduler without a name'} with the prediction {prediction!r} is not "
            f"served, only {EPSILON} and {V} on Stable Diffusion's noise levels. Take another checkpoint of the family"
        )
    return Said(prediction=prediction, zero_terminal_snr=rescaled)


def predicts_velocity(tensors: Tensors) -> bool | None:
    """Whether a Stable Diffusion 2 predicts the velocity, by the spread of one bias; None: it is not there to be read.

    Source: comfy/supported_models.py's SD20, which compares the (population) standard deviation with 0.09.
    """
    for name in TELLING_BIASES:
        for prefix in DENOISER_PREFIXES:
            bias = tensors.get(prefix + name)
            if bias is not None and bias.dtype in FLOATS and bias.length:
                raw = np.frombuffer(read_bytes(bias), FLOATS[bias.dtype])
                values = (raw.astype(np.uint32) << 16).view(np.float32) if bias.dtype == "BF16" else raw
                return bool(np.std(values.astype(np.float64)) > SPREAD_OF_V)
    return None
