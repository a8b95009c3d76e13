"""Samplers whose steps remember nothing of the steps before.

Notation: s and t are the noise levels of a step's start and end, D the denoised estimate at s, n a unit noise tensor;
d and u split t into the part a deterministic step goes down to and the noise added back. A step to noise 0 is the
estimate itself. Sources: Karras et al. 2022 (arXiv:2206.00364) for heun and dpm_2, Lu et al. 2022 (arXiv:2206.00927 and
arXiv:2211.01095) for dpm_fast and the dpmpp family, and the k-diffusion conventions that the network's workers share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from trt_worker.denoise.parameterisation import Parameterisation
from trt_worker.denoise.program import ANCHOR, DENOISED, FreshNoise, IntervalNoise, Stage, X
from trt_worker.denoise.stages import (
    ESTIMATE,
    H1,
    H2,
    KEEP_SAMPLE,
    NOISE,
    Weights,
    ancestral,
    renewed,
    scaled,
    stage,
    towards,
)


def euler(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        yield stage(s, towards(t / s))


def euler_ancestral(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        down, factor, up = renewed(levels, s, t)
        if t == 0:
            yield stage(s, ESTIMATE)
        else:
            yield stage(s, scaled(towards(down / s), factor, up), noise=FreshNoise())


def ddpm(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        if t == 0:
            yield stage(s, ESTIMATE)
        else:
            ratio = (t / s) ** 2
            yield stage(s, towards(ratio) | {NOISE: t * math.sqrt(s * s - t * t) / s}, noise=FreshNoise())


def heun(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        if t == 0:
            yield stage(s, ESTIMATE)
            continue
        yield stage(s, towards(t / s), anchor=KEEP_SAMPLE, history=ESTIMATE)
        first = (s - t) * (2 * t - s) / (2 * s * t)
        yield stage(t, {ANCHOR: t / s, H1: first, DENOISED: (s - t) / (2 * t)})


def heunpp2(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    """Heun with a third slope one level further down; slopes weigh by how noisy their level is."""
    start = sigmas[0]
    for s, t, beyond in zip(sigmas, sigmas[1:], [*sigmas[2:], 0.0], strict=False):
        slope_at_s, slope_at_t = {X: 1 / s, DENOISED: -1 / s}, {X: 1 / t, DENOISED: -1 / t} if t else {}
        if t == 0:
            yield stage(s, ESTIMATE)
        elif beyond == 0:
            second = t / (2 * start)
            yield stage(s, towards(t / s), anchor=KEEP_SAMPLE, history=slope_at_s)
            yield stage(t, {ANCHOR: 1.0, H1: (t - s) * (1 - second)} | _times(slope_at_t, (t - s) * second))
        else:
            second, third = t / (3 * start), beyond / (3 * start)
            yield stage(s, towards(t / s), anchor=KEEP_SAMPLE, history=slope_at_s)
            yield stage(t, towards(beyond / t), history=slope_at_t)
            whole = {ANCHOR: 1.0, H2: (t - s) * (1 - second - third), H1: (t - s) * second}
            yield stage(beyond, whole | _times({X: 1 / beyond, DENOISED: -1 / beyond}, (t - s) * third))


def _times(weights: Weights, factor: float) -> Weights:
    return {tensor: factor * weight for tensor, weight in weights.items()}


def dpm_2(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        if t == 0:
            yield stage(s, ESTIMATE)
            continue
        yield from _midpoint(s, t, 1.0, 0.0)


def dpm_2_ancestral(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        down, factor, up = renewed(levels, s, t)
        if down == 0:
            yield stage(s, ESTIMATE)
        else:
            yield from _midpoint(s, down, factor, up)


def _midpoint(s: float, t: float, factor: float, up: float) -> Iterator[Stage]:
    """DPM-Solver-2: the slope at the geometric middle of s and t."""
    middle = math.sqrt(s * t)
    yield stage(s, towards(middle / s), anchor=KEEP_SAMPLE, history=ESTIMATE)
    first = -(s - t) * (s - middle) / (s * middle)
    slope = {ANCHOR: t / s, H1: first, DENOISED: (s - t) / middle}
    # x + d' (t - s) with d' = (y - D2) / m and y = (m / s) x + (1 - m / s) D
    yield stage(middle, scaled(slope, factor, up), noise=FreshNoise() if up else None)


def dpmpp_2s_ancestral(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        down, factor, up = renewed(levels, s, t)
        if t == 0:
            yield stage(s, ESTIMATE)
            continue
        if not levels.is_flow:
            middle = math.sqrt(s * down)
        elif s >= 1.0:
            middle = 0.9999
        else:
            middle = levels.sigma_of_half_log_snr((levels.half_log_snr(s) + levels.half_log_snr(down)) / 2)
        yield stage(s, towards(middle / s), anchor=KEEP_SAMPLE)
        line = {ANCHOR: down / s, DENOISED: 1 - down / s}
        yield stage(middle, scaled(line, factor, up), noise=FreshNoise())


def dpmpp_sde(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        if t == 0:
            yield stage(s, ESTIMATE)
            continue
        middle = levels.halfway(s, t)
        alpha, snr = levels.alpha(s), s / levels.alpha(s)
        alpha_middle, alpha_end = levels.alpha(middle), levels.alpha(t)
        down, up = ancestral(snr, middle / alpha_middle)
        first = {
            X: alpha_middle / alpha * down / snr,
            DENOISED: alpha_middle * (1 - down / snr),
            NOISE: alpha_middle * up,
        }
        yield stage(s, first, anchor=KEEP_SAMPLE, noise=IntervalNoise(s, middle))
        down, up = ancestral(snr, t / alpha_end)
        second = {ANCHOR: alpha_end / alpha * down / snr, DENOISED: alpha_end * (1 - down / snr), NOISE: alpha_end * up}
        yield stage(middle, second, noise=IntervalNoise(s, t))


def lcm(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        if t == 0:
            yield stage(s, ESTIMATE)
        else:
            yield stage(s, {DENOISED: 1 - t if levels.is_flow else 1.0, NOISE: t}, noise=FreshNoise())


def dpm_fast(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    """DPM-Solver blocks of order 3 with as many evaluations as the schedule has steps, even in the logarithm.

    Of the schedule only the first level and the last above 0 count, and the run ends at that last level.
    """
    evaluations = len(sigmas) - 1
    first, last = math.log(sigmas[0]), math.log(sigmas[-1] or sigmas[-2])
    blocks = evaluations // 3 + 1
    orders = [3] * (blocks - 2) + [2, 1] if evaluations % 3 == 0 else [3] * (blocks - 1) + [evaluations % 3]
    for number, order in enumerate(orders):
        s, t = (math.exp(first + (last - first) * place / blocks) for place in (number, number + 1))
        yield from _solver_block(s, t, order)


def _solver_block(s: float, t: float, order: int) -> Iterator[Stage]:
    """DPM-Solver-1, -2 or -3 from s to t. Source: arXiv:2206.00927, algorithms 1 and 2, in the variable x / alpha."""
    h = math.log(s / t)
    slope = {X: 1 / s, DENOISED: -1 / s}  # the predicted noise
    if order == 1:
        yield stage(s, towards(t / s))
        return
    share = 1 / order
    middle = s * math.exp(-share * h)
    yield stage(s, towards(middle / s), anchor=KEEP_SAMPLE, history=slope)
    of_slope = -t * math.expm1(h)
    at_middle = {X: 1 / middle, DENOISED: -1 / middle}
    if order == 2:
        bend = -t / (2 * share) * math.expm1(h)
        yield stage(middle, {ANCHOR: 1.0, H1: of_slope - bend} | _times(at_middle, bend))
        return
    late = s * math.exp(-2 * share * h)
    bend = -late * 2 * (_mean_growth(2 * share * h) - 1)
    to_late = {ANCHOR: 1.0, H1: -late * math.expm1(2 * share * h) - bend} | _times(at_middle, bend)
    yield stage(middle, to_late)
    bend = -t / (2 * share) * (_mean_growth(h) - 1)
    yield stage(late, {ANCHOR: 1.0, H1: of_slope - bend} | _times({X: 1 / late, DENOISED: -1 / late}, bend))


def _mean_growth(h: float) -> float:
    """Mean of exp over 0..h: (exp(h) - 1) / h, and 1 for a block of no length, between equal levels."""
    return math.expm1(h) / h if h else 1.0
