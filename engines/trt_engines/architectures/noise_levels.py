"""The noise levels that a denoiser was trained on, and what its output means."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum


class Prediction(StrEnum):
    """What a denoiser predicts."""

    EPSILON = "epsilon"  # the noise
    V = "v_prediction"  # the velocity, alpha * noise - sigma * image: Salimans & Ho 2022, arXiv:2202.00512
    FLOW = "flow"  # noise - image: Liu et al. 2022, arXiv:2209.03003


class Time(StrEnum):
    """How a denoiser's time maps to noise levels. Formulas: `trt_worker.denoise.parameterisation`."""

    DISCRETE = "discrete"  # steps of scaled-linear betas; the time is the index of the nearest level
    FLOW = "flow"  # shift * t / (1 + (shift - 1) * t)
    FLUX = "flux"  # e^shift / (e^shift + 1 / t - 1)
    COSINE = "cosine"  # Stable Cascade's: cosine, its log signal-to-noise ratio lowered by 2 ln shift
    EDM = "edm"  # continuous levels; the time is ln(level) / 4 (Karras et al. 2022, arXiv:2206.00364, table 1)


class ShiftRule(StrEnum):
    """Where the shift of a schedule is from."""

    FIXED = "fixed"  # it is `NoiseLevels.shift`
    SIZE_AND_STEPS = "size and steps"  # `flux2_mu`


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseLevels:
    """The noise levels that a denoiser was trained on, and what its output means.

    Raises: ValueError: its fields contradict each other.
    """

    prediction: Prediction
    time: Time
    shift: float = 1.0  # as `Time` has it; no shift is 1, and 0 with FLUX
    shift_rule: ShiftRule = ShiftRule.FIXED
    units: int = 1  # the network's time runs from 0 to this: steps of training, or 1 where it is a ratio; not with EDM
    zero_terminal_snr: bool = False  # DISCRETE: betas are rescaled so that the last level is nothing but noise
    sigma_min: float | None = None  # EDM: the lowest and the highest noise level
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        if (self.prediction is Prediction.FLOW) != (self.time in (Time.FLOW, Time.FLUX)):
            raise ValueError(f"a denoiser with the noise levels {self.time.value!r} cannot predict {self.prediction!r}")
        if self.zero_terminal_snr and self.time is not Time.DISCRETE:
            raise ValueError(f"noise levels {self.time.value!r} have no betas that could be rescaled")
        if self.time is not Time.EDM:
            if self.sigma_min is not None or self.sigma_max is not None:
                raise ValueError(f"noise levels {self.time.value!r} have no lowest and highest one of their own")
        elif self.sigma_min is None or self.sigma_max is None or not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"noise levels from {self.sigma_min} to {self.sigma_max} are no range above 0")

    def with_checkpoint(
        self,
        *,
        prediction: str | None = None,
        shift: float | None = None,
        zero_terminal_snr: bool = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
    ) -> NoiseLevels:
        """These levels with what one checkpoint says otherwise.

        Args:
            prediction: None: as here. "flow" of a denoiser with discrete levels makes them a rectified flow's, whose
                time runs over as many units (what ComfyUI's ModelSamplingSD3 makes of such a model).
            shift: time shift; None: as here.
            sigma_min, sigma_max: both make the levels EDM's.
        Raises: ValueError: there is no such prediction, or they contradict each other.
        """
        predicted = self.prediction if prediction is None else Prediction(prediction)
        time = self.time
        if sigma_min is not None or sigma_max is not None:
            time = Time.EDM
        elif predicted is Prediction.FLOW and time is Time.DISCRETE:
            time = Time.FLOW
        return replace(
            self,
            prediction=predicted,
            time=time,
            shift=self.shift if shift is None else shift,
            zero_terminal_snr=self.zero_terminal_snr or zero_terminal_snr,
            sigma_min=self.sigma_min if sigma_min is None else sigma_min,
            sigma_max=self.sigma_max if sigma_max is None else sigma_max,
        )


def flux2_mu(width: int, height: int, steps: int) -> float:
    """FLUX.2's mu, the shift of `Time.FLUX`, for a picture's size and the steps of its whole schedule.

    Args: width, height: pixels; an image token is 16 x 16 of them.
    Source: `compute_empirical_mu` of Black Forest Labs' flux2 reference implementation: lines by tokens, fitted
        at 10 and at 200 steps, and a line between them through the steps. ComfyUI takes the sides as they are, where
        its empty latent cuts them to multiples of 16.
    """
    tokens = round(width * height / 256)
    many = 0.00016927 * tokens + 0.45666666  # fitted at 200 steps
    if tokens > 4300:
        return many
    few = 8.73809524e-05 * tokens + 1.89833333  # fitted at 10 steps
    slope = (many - few) / 190
    return slope * steps + many - 200 * slope
