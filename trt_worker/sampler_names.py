"""Names of samplers and schedules: what the networks say, and what we call the same thing."""

from __future__ import annotations

from trt_worker.errors import UnservableJob

SAMPLERS = (
    "euler",
    "euler_ancestral",
    "heun",
    "heunpp2",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde",
    "ddim",
    "ddpm",
    "lcm",
    "ipndm",
    "deis",
    "res_multistep",
    "res_multistep_ancestral",
    "gradient_estimation",
    "er_sde",
)
"""Canonical names, which are ComfyUI's."""

SCHEDULERS = (
    "normal",
    "karras",
    "exponential",
    "simple",
    "sgm_uniform",
    "ddim_uniform",
    "beta",
    "linear_quadratic",
    "kl_optimal",
)

SECOND_ORDER = frozenset({"heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde"})
"""Samplers whose steps the Horde counts twice."""

_SYNONYMS = {
    "euler_a": "euler_ancestral",
    "dpm_2_a": "dpm_2_ancestral",
    "dpmpp_2s_a": "dpmpp_2s_ancestral",
    "plms": "euler",  # today's workers run Euler under this name
    "dpmsolver": "dpmpp_2m",
    "dpmpp_sde_gpu": "dpmpp_sde",
    "dpmpp_2m_sde_gpu": "dpmpp_2m_sde",
    "dpmpp_3m_sde_gpu": "dpmpp_3m_sde",
}


STAND_INS = {
    "dpm_adaptive": ("dpmpp_2m", "its step sizes follow an error norm, which no shared batch can wait for"),
    "uni_pc": ("dpmpp_2m", "it is not implemented; both solve the same equation"),
    "uni_pc_bh2": ("dpmpp_2m", "it is not implemented; both solve the same equation"),
}
"""Samplers that another one is run for, and why: by canonical name. Every job this happens to is told of."""


def run_as(sampler: str) -> tuple[str, str]:
    """The sampler that is run when a job names a canonical one, and the sentence to tell; empty: the one it names."""
    if sampler not in STAND_INS:
        return sampler, ""
    other, why = STAND_INS[sampler]
    return other, f"sampler {sampler} is run as {other}: {why}"


def canonical_sampler(name: str) -> str:
    """Our name of a sampler as a job writes it: any case, with or without the Horde's `k_`.

    Raises: UnservableJob: no sampler of this name is served.
    """
    plain = name.strip().lower().removeprefix("k_")
    plain = _SYNONYMS.get(plain, plain)
    if plain not in SAMPLERS and plain not in STAND_INS:
        raise UnservableJob(f"sampler {name!r} is not served; served are {', '.join(SAMPLERS)}")
    return plain


def canonical_scheduler(name: str) -> str:
    """Our name of a schedule as a job writes it, in any case.

    Raises: UnservableJob: no schedule of this name is served.
    """
    plain = name.strip().lower()
    if plain not in SCHEDULERS:
        raise UnservableJob(f"scheduler {name!r} is not served; served are {', '.join(SCHEDULERS)}")
    return plain
