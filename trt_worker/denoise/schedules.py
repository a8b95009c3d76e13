"""Noise levels of a run, from the first step to 0, as ComfyUI lays them out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from trt_worker.denoise.parameterisation import Float64, Parameterisation, linspace
from trt_worker.job import SamplerNode

DROPS_PENULTIMATE = frozenset({"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"})
"""Samplers that `KSampler` runs on a schedule of one step more without its last level above 0."""


def sigmas(
    scheduler: str,
    levels: Parameterisation,
    steps: int,
    *,
    strength: float = 1.0,
    sampler: str = "",
    node: SamplerNode = SamplerNode.KSAMPLER,
    end: int | None = None,
) -> Float64:
    """Noise levels of a run.

    Args:
        scheduler: name in `SCHEDULES`.
        steps: >= 1. `ddim_uniform` may give more, `beta` fewer.
        strength: share of the noise an image-to-image job adds, 0 < strength <= 1: a part of the schedule of
            int(steps / strength) steps.
        sampler: canonical name; under `KSampler` some drop the penultimate level.
        node: decides which part of the schedule is run: `KSampler` runs its end, `KSamplerAdvanced` all but its
            beginning, and both the whole at full strength; a custom sampler runs its end at any strength.
        end: of `KSamplerAdvanced`: 0 replaces this level of the whole schedule, and the levels behind it are left out.
    Returns: float64 [steps + 1], falling; the last level is 0. It holds less than two levels when the schedule gives
        fewer than a node leaves out.
    Raises: ValueError: an argument is out of its range, or the schedule is unknown.
    Source: the nodes' behaviour in ComfyUI.
    """
    if steps < 1 or not 0 < strength <= 1:
        raise ValueError(f"{steps} steps at strength {strength}: steps start at 1, strength is in 0..1")
    if scheduler not in SCHEDULES:
        raise ValueError(f"unknown schedule {scheduler!r}; known are {', '.join(SCHEDULES)}")
    drops = sampler in DROPS_PENULTIMATE and node is not SamplerNode.CUSTOM
    total = whole(steps, strength)
    levels_of_run = SCHEDULES[scheduler](levels, total + drops)
    if drops:
        levels_of_run = np.concatenate([levels_of_run[:-2], levels_of_run[-1:]])
    match node:
        case SamplerNode.KSAMPLER if strength > 0.9999:
            return levels_of_run
        case SamplerNode.KSAMPLER_ADVANCED:
            if end is not None and end < len(levels_of_run) - 1:
                levels_of_run = np.append(levels_of_run[:end], 0.0)
            return levels_of_run[total - steps :]
        case _:
            return levels_of_run[-(steps + 1) :]


def whole(steps: int, strength: float) -> int:
    """Steps of the whole schedule of which a run of so many takes part. Args: see `sigmas`."""
    return steps if strength > 0.9999 else int(steps / strength)


def normal(levels: Parameterisation, steps: int) -> Float64:
    """Equal steps in the network's time, from the noisiest to the cleanest."""
    first, last = levels.timestep(levels.sigma_max), levels.timestep(levels.sigma_min)
    if abs(levels.sigma(last)) <= 1e-5:
        return np.array([levels.sigma(time) for time in linspace(first, last, steps + 1)])
    return _closed([levels.sigma(time) for time in linspace(first, last, steps)])


def sgm_uniform(levels: Parameterisation, steps: int) -> Float64:
    """Equal steps in time, without the cleanest level."""
    first, last = levels.timestep(levels.sigma_max), levels.timestep(levels.sigma_min)
    return _closed([levels.sigma(time) for time in linspace(first, last, steps + 1)[:-1]])


def simple(levels: Parameterisation, steps: int) -> Float64:
    """Every (levels / steps)-th entry of the model's table."""
    stride = len(levels.table) / steps
    return _closed([levels.table[-(1 + int(step * stride))] for step in range(steps)])


def ddim_uniform(levels: Parameterisation, steps: int) -> Float64:
    """Every k-th entry from the second cleanest on; gives more steps than asked when the table does not divide."""
    stride = max(len(levels.table) // steps, 1)
    chosen = [float(level) for level in levels.table[1::stride]]
    if chosen and abs(chosen[0]) <= 1e-5:
        chosen = chosen[1:]
    return _closed(chosen[::-1])


def karras(levels: Parameterisation, steps: int, rho: float = 7.0) -> Float64:
    """Levels that are dense near the clean image. Source: Karras et al. 2022, arXiv:2206.00364, eq. 5."""
    low, high = levels.sigma_min ** (1 / rho), levels.sigma_max ** (1 / rho)
    roots = np.float32(high) + linspace(0, 1, steps) * np.float32(low - high)
    return _closed(roots.astype(np.float64) ** rho)


def exponential(levels: Parameterisation, steps: int) -> Float64:
    """Equal steps in the logarithm."""
    logs = linspace(math.log(levels.sigma_max), math.log(levels.sigma_min), steps)
    return _closed(np.exp(logs.astype(np.float64)))


def beta(levels: Parameterisation, steps: int, shape: float = 0.6) -> Float64:
    """Quantiles of a Beta(0.6, 0.6) distribution over the table; repeated entries are left out.

    Source: "Beta Sampling is All You Need", arXiv:2407.12173.
    """
    from scipy.special import betaincinv

    shares = betaincinv(shape, shape, 1 - np.linspace(0, 1, steps, endpoint=False))
    places = np.rint(shares * (len(levels.table) - 1)).astype(int)
    kept = [place for before, place in zip([None, *places[:-1]], places, strict=True) if place != before]
    return _closed([levels.table[place] for place in kept])


def linear_quadratic(levels: Parameterisation, steps: int, threshold: float = 0.025) -> Float64:
    """Linear over the first half, then quadratic, scaled to the noisiest level."""
    if steps == 1:
        return np.array([1.0, 0.0]) * levels.sigma_max
    half = steps // 2
    linear = [step * threshold / half for step in range(half)]
    difference = half - threshold * steps
    quadratic = difference / (half * (steps - half) ** 2)
    slope = threshold / half - 2 * difference / (steps - half) ** 2
    constant = quadratic * half**2
    rest = [quadratic * step**2 + slope * step + constant for step in range(half, steps)]
    return (1 - np.array([*linear, *rest, 1.0])) * levels.sigma_max


def kl_optimal(levels: Parameterisation, steps: int) -> Float64:
    """Equal steps in the arctangent. Source: "Align Your Steps", arXiv:2404.14507.

    In float32 as in ComfyUI: near pure noise, the last bit of an arctangent is thousandths of the level.
    """
    share = np.linspace(0, 1, steps, dtype=np.float32) if steps > 1 else np.zeros(1, np.float32)
    low, high = (np.float32(math.atan(sigma)) for sigma in (levels.sigma_min, levels.sigma_max))
    return _closed([math.tan(angle) for angle in share * low + (np.float32(1) - share) * high])


SCHEDULES: dict[str, Callable[[Parameterisation, int], Float64]] = {
    "normal": normal,
    "karras": karras,
    "exponential": exponential,
    "simple": simple,
    "sgm_uniform": sgm_uniform,
    "ddim_uniform": ddim_uniform,
    "beta": beta,
    "linear_quadratic": linear_quadratic,
    "kl_optimal": kl_optimal,
}


def _closed(falling: Float64 | list[float]) -> Float64:
    """Levels as float32 keeps them, and 0."""
    return np.append(np.asarray(falling, np.float32).astype(np.float64), 0.0)
