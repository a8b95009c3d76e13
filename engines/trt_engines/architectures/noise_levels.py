"""The noise levels that a denoiser was trained on, and what its output means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Prediction(StrEnum):
    """What a denoiser predicts."""

    EPSILON = "epsilon"
    V = "v_prediction"
    FLOW = "flow"


class Time(StrEnum):
    """How a denoiser's time maps to noise levels. Formulas: `trt_worker.denoise.parameterisation`."""

    DISCRETE = "discrete"  # 1000 steps of scaled-linear betas; the time is the index of the nearest level
    FLOW = "flow"  # shift * t / (1 + (shift - 1) * t)
    FLUX = "flux"  # e^shift / (e^shift + 1 / t - 1)
    COSINE = "cosine"  # Stable Cascade's: cosine, its log signal-to-noise ratio lowered by 2 ln shift


class ShiftRule(StrEnum):
    """Where the shift of a schedule is from."""

    FIXED = "fixed"  # it is `NoiseLevels.shift`
    SIZE_AND_STEPS = "size and steps"  # FLUX.2's: of the number of image tokens and of steps


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseLevels:
    """The noise levels that a denoiser was trained on, and what its output means."""

    prediction: Prediction
    time: Time
    shift: float = 1.0  # as `Time` has it; no shift is 1, and 0 with FLUX
    shift_rule: ShiftRule = ShiftRule.FIXED
    units: int = 1  # the network's time runs from 0 to this: steps of training, or 1 where it is a ratio
