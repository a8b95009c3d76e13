"""Samplers of the k-diffusion family as programs, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from trt_worker.denoise import multistep, one_step
from trt_worker.denoise.parameterisation import Float64, Parameterisation
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
    usable = sigmas
    if sampler in _OFFSETS_FULL_NOISE and levels.is_flow and sigmas[0] >= 1:
        usable = sigmas.copy()
        usable[0] = levels.sigma((1 - 1e-4) * levels.multiplier)
    return Program(
        stages=tuple(SAMPLERS[sampler](levels, [float(sigma) for sigma in usable])),
        levels=levels,
        brownian_range=(float(positive.min()), float(positive.max())) if len(positive) else None,
    )
