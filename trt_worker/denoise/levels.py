"""The parameterisation that a denoiser's facts ask for."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from trt_engines.architectures.noise_levels import NoiseLevels, Prediction, ShiftRule, Time, flux2_mu
from trt_worker.denoise.parameterisation import Parameterisation, cascade, edm, flow, flux, stable_diffusion
from trt_worker.errors import BadJob, UnservableJob


def parameterisation_of(
    levels: NoiseLevels, *, shift: float | None, width: int, height: int, steps: int
) -> Parameterisation:
    """Noise levels and formulas of a run.

    Args:
        levels: of the denoiser.
        shift: time shift that a job wants of a rectified flow, as a factor, whatever form the denoiser's own shift has;
            None: the denoiser's own.
        width, height, steps: the picture's pixels and the steps of its whole schedule. They matter to FLUX.2 only,
            whose shift follows them.
    Raises: UnservableJob: a shift is asked of a model that is no rectified flow. BadJob: the shift is not above 0, or
        not finite.
    """
    if shift is not None and not 0 < shift < math.inf:
        raise BadJob(f"a time shift of {shift} gives no noise levels: it has to be above 0 and finite")
    if shift is not None:
        if levels.prediction is not Prediction.FLOW:
            raise UnservableJob(f"the job shifts time as for a flow model, and this one predicts {levels.prediction}")
        return _made(replace(levels, time=Time.FLOW, shift=shift, shift_rule=ShiftRule.FIXED))
    if levels.shift_rule is ShiftRule.SIZE_AND_STEPS:
        return _made(replace(levels, shift=flux2_mu(width, height, steps), shift_rule=ShiftRule.FIXED))
    return _made(levels)


@lru_cache(maxsize=64)  # bounded: jobs bring shifts, and FLUX.2 has one for every size and number of steps
def _made(levels: NoiseLevels) -> Parameterisation:
    match levels.time:
        case Time.DISCRETE:
            return stable_diffusion(levels.prediction, steps=levels.units, zero_terminal_snr=levels.zero_terminal_snr)
        case Time.FLOW:
            return flow(levels.shift, multiplier=levels.units)
        case Time.FLUX:
            return flux(levels.shift)
        case Time.COSINE:
            return cascade(levels.shift)
        case Time.EDM:
            assert levels.sigma_min is not None
            assert levels.sigma_max is not None
            return edm(levels.prediction, sigma_min=levels.sigma_min, sigma_max=levels.sigma_max)
