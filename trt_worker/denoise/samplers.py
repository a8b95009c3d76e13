"""Samplers of the k-diffusion family as programs, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trt_worker.denoise import multistep, one_step
from trt_worker.denoise.parameterisation import Float64, Parameterisation, single
from trt_worker.denoise.program import Program, Stage

SAMPLERS: dict[str, Callable[[Parameterisation, Sequence[float]], Iterator[Stage]]] = {
    "euler": one_step.euler,
    "euler_ancestral": one_step.euler_ancestral,
    "heun": one_step.heun,
    "heunpp2": one_step.heunpp2,
    "dpm_2": one_step.dpm_2,
    "dpm_2_ancestral": one_step.dpm_2_ancestral,
    "lms": multistep.lms,
    "dpm_fast": one_step.dpm_fast,
    "dpmpp_2s_ancestral": one_step.dpmpp_2s_ancestral,
    "dpmpp_sde": one_step.dpmpp_sde,
    "dpmpp_2m": multistep.dpmpp_2m,
    "dpmpp_2m_sde": multistep.dpmpp_2m_sde,
    "dpmpp_2m_sde_heun": multistep.dpmpp_2m_sde_heun,
    "dpmpp_3m_sde": multistep.dpmpp_3m_sde,
    "ddim": one_step.euler,  # without churn they are the same step
    "ddpm": one_step.ddpm,
    "lcm": one_step.lcm,
    "ipndm": multistep.ipndm,
    "deis": multistep.deis,
    "res_multistep": multistep.res_multistep,
    "res_multistep_ancestral": multistep.res_multistep_ancestral,
    "gradient_estimation": multistep.gradient_estimation,
    "er_sde": multistep.er_sde,
}

_OFFSETS_FULL_NOISE = frozenset({"dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "er_sde"})
"""Samplers that need a finite signal-to-noise ratio: full noise of a flow model is replaced by the level just below."""

_DIVIDES_BY_LENGTH = frozenset(
    {
        "dpmpp_2m",
        "dpmpp_2m_sde",
        "dpmpp_2m_sde_heun",
        "dpmpp_3m_sde",
        "dpmpp_sde",
        "lms",
        "deis",
        "res_multistep",
        "res_multistep_ancestral",
        "er_sde",
    }
)
"""Samplers whose formulas divide by the length of a step, or of one before it; see `without_repeats`."""


def program(sampler: str, levels: Parameterisation, sigmas: Float64) -> Program:
    """The stages of a run.

    Args:
        sampler: name in `SAMPLERS`.
        sigmas: noise levels as `schedules.sigmas` gives them.
    Raises: ValueError: the sampler is unknown.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; known are {', '.join(SAMPLERS)}")
    positive = sigmas[sigmas > 0]
    usable = without_repeats(sigmas) if sampler in _DIVIDES_BY_LENGTH else sigmas
    if sampler in _OFFSETS_FULL_NOISE and levels.is_flow and usable[0] >= 1:
        usable = np.array([_just_below_full_noise(levels, usable[1]), *usable[1:]])
    return Program(
        stages=tuple(SAMPLERS[sampler](levels, [float(sigma) for sigma in usable])),
        levels=levels,
        brownian_range=(float(positive.min()), float(positive.max())) if len(positive) else None,
    )


def without_repeats(sigmas: Float64) -> Float64:
    """The levels of a run without those that equal the one before.

    A step between equal levels has no length: it leaves the sample as it is, whatever the network says, and its
    estimate is the one that the next step begins with. Formulas that divide by a step's length, as the slope between
    two estimates or a Brownian increment's deviation do, read 0 / 0 there (k-diffusion's give NaN). What they stand
    for, an interpolation through estimates at different levels, is the one of the run without the repeated level.
    `simple` repeats levels wherever it is asked for more than the model's table has, as in the tail of a long run.
    """
    kept: Float64 = sigmas[np.append(True, np.diff(sigmas) != 0)]
    return kept


def _just_below_full_noise(levels: Parameterisation, second: float) -> float:
    """The level that replaces full noise, in float32 as every level: at 0.9999 of the time, as ComfyUI has it. Where
    that is not above the run's second level, as with a small time shift, half-way between that one and 1."""
    replaced = levels.sigma_after(1e-4)
    return replaced if replaced > second else single((1 + second) / 2)
