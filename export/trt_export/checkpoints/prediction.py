"""What a checkpoint says of its own prediction and noise levels: by tensors with telling names, or by its scheduler's
file.

Sources: the names of the tensors, and which of them wins, are those of ComfyUI's comfy/supported_models; the
scheduler's are diffusers'. Stable Diffusion 2.1 says nothing, and is told by the spread of one bias, as ComfyUI does.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_export.checkpoints.checkpoint import Checkpoint, Tensors
from trt_export.checkpoints.maps.rows import DENOISER_PREFIXES
from trt_export.checkpoints.published import DENOISERS
from trt_export.checkpoints.safetensors_file import StoredTensor, UnreadableCheckpoint, read_bytes
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

PLAYGROUND = ("edm_mean", "edm_std")
"""Tensors of Playground 2.5, whose noise levels are EDM's, of latents that are scaled to another variance."""

EDM_LOWEST, EDM_HIGHEST = "edm_vpred.sigma_min", "edm_vpred.sigma_max"
"""Tensors of CosXL and its kin, which predict the velocity at EDM's noise levels: the range of these."""

EDM_RANGE = (0.002, 120.0)
"""Where one of them is not there. Source: ComfyUI's ModelSamplingContinuousEDM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A checkpoint's own word on what its network predicts, and at which noise levels."""

    prediction: str | None = None  # "epsilon" or "v_prediction"; None: it says nothing
    zero_terminal_snr: bool = False  # noise levels end in pure noise: betas are rescaled to a signal of none
    sigma_min: float | None = None  # the lowest and the highest of EDM's noise levels; None: they are others
    sigma_max: float | None = None


def said(checkpoint: Checkpoint) -> Said:
    """What a checkpoint of Stable Diffusion says. Raises: UnreadableCheckpoint: it is of a kind that is not served."""
    tensors = checkpoint.of("denoiser")
    for name in PLAYGROUND:
        if name in tensors:
            raise UnreadableCheckpoint(
                f"{checkpoint.path}: {name} says that this is Playground 2.5: its latents and noise levels are EDM's; "
                f"no schedule here has them. Take a checkpoint of plain SDXL, such as {DENOISERS['sdxl']}"
            )
    if EDM_LOWEST in tensors or EDM_HIGHEST in tensors:
        lowest, highest = _edm_range(tensors)
        return Said(prediction=V, sigma_min=lowest, sigma_max=highest)
    configured = _configured(checkpoint.path / SCHEDULER)
    if "v_pred" in tensors:
        return Said(prediction=V, zero_terminal_snr="ztsnr" in tensors or configured.zero_terminal_snr)
    return configured


def _edm_range(tensors: Tensors) -> tuple[float, float]:
    """The lowest and the highest noise level that EDM's tensors say. Raises: UnreadableCheckpoint: no range."""
    found = []
    for name, usual in zip((EDM_LOWEST, EDM_HIGHEST), EDM_RANGE, strict=True):
        tensor = tensors.get(name)
        if tensor is None:
            found.append(usual)
            continue
        values = _values(tensor)
        if values is None or values.size != 1:
            raise UnreadableCheckpoint(
                f"{tensor.file}: {name} should be the one number of a noise level, and is {tensor.dtype} of shape "
                f"{list(tensor.shape)}; take the checkpoint from where it was published"
            )
        found.append(float(values[0]))
    lowest, highest = found
    if not 0 < lowest < highest < math.inf:
        file = next(tensors[name].file for name in (EDM_LOWEST, EDM_HIGHEST) if name in tensors)
        raise UnreadableCheckpoint(
            f"{file}: {EDM_LOWEST} and {EDM_HIGHEST} say that its noise levels go from {lowest:g} to {highest:g}, "
            "which is no range above 0; take the checkpoint from where it was published"
        )
    return lowest, highest


def _values(tensor: StoredTensor) -> NDArray[np.floating[Any]] | None:
    """A tensor's numbers in a row; None: they are no plain floating-point numbers."""
    if tensor.dtype not in FLOATS:
        return None
    raw = np.frombuffer(read_bytes(tensor), FLOATS[tensor.dtype])
    return (raw.astype(np.uint32) << 16).view(np.float32) if tensor.dtype == "BF16" else raw


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
            values = None if bias is None else _values(bias)
            if values is not None and values.size:
                return bool(np.std(values.astype(np.float64)) > SPREAD_OF_V)
    return None
