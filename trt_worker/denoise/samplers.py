"""Samplers of the k-diffusion family as programs.

Notation: s and t are the noise levels of a step's start and end, D the denoised estimate at s, n a unit noise tensor;
d and u split t into the part a deterministic step goes down to and the noise added back. A step to noise 0 is always
the estimate itself. Sources: Karras et al. 2022 (arXiv:2206.00364) for heun and dpm_2, Lu et al. 2022
(arXiv:2211.01095) for the dpmpp family, Zhang & Chen 2022 (arXiv:2204.13902) for the Adams-Bashforth weights, and the
k-diffusion conventions that the network's workers share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trt_worker.denoise.parameterisation import Float64, Parameterisation
from trt_worker.denoise.program import (
    ANCHOR,
    DENOISED,
    HISTORY,
    REGISTERS,
    FreshNoise,
    IntervalNoise,
    NoiseNeed,
    Program,
    Stage,
    X,
)

Weights = dict[int, float]
_N = 6
_H1, _H2, _H3 = HISTORY, HISTORY + 1, HISTORY + 2


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


def _stage(
    sigma: float,
    sample: Weights,
    *,
    anchor: Weights | None = None,
    history: Weights | None = None,
    noise: NoiseNeed = None,
) -> Stage:
    """A stage by what is not kept: `history` is pushed, the older entries move back; the anchor stays unless given."""
    mix = np.zeros((REGISTERS, REGISTERS + 2))
    mix[X] = _row(sample)
    mix[ANCHOR] = _row(anchor or {ANCHOR: 1.0})
    if history is None:
        mix[_H1, _H1] = mix[_H2, _H2] = mix[_H3, _H3] = 1.0
    else:
        mix[_H1] = _row(history)
        mix[_H2, _H1] = mix[_H3, _H2] = 1.0
    return Stage(sigma=sigma, mix=mix, noise=noise)


def _row(weights: Weights) -> NDArray[np.float64]:
    row = np.zeros(REGISTERS + 2)
    for tensor, weight in weights.items():
        row[tensor] = weight
    return row


def _to(ratio: float) -> Weights:
    """The line from the sample towards the estimate: ratio X + (1 - ratio) D."""
    return {X: ratio, DENOISED: 1 - ratio}


_ESTIMATE: Weights = {DENOISED: 1.0}
_KEEP_SAMPLE: Weights = {X: 1.0}


def _ancestral(s: float, t: float) -> tuple[float, float]:
    """(d, u) of a step whose noise is renewed completely: d * d + u * u = t * t."""
    up = min(t, t * math.sqrt(max(s * s - t * t, 0.0)) / s)
    return math.sqrt(max(t * t - up * up, 0.0)), up


def _renewed(levels: Parameterisation, s: float, t: float) -> tuple[float, float, float]:
    """(d, factor on the deterministic result, factor on fresh noise) of an ancestral step."""
    if not levels.is_flow:
        down, up = _ancestral(s, t)
        return down, 1.0, up
    down = t * t / s
    factor = (1 - t) / (1 - down)
    return down, factor, math.sqrt(max(t * t - down * down * factor * factor, 0.0))


def _scaled(weights: Weights, factor: float, noise: float) -> Weights:
    return {tensor: factor * weight for tensor, weight in weights.items()} | {_N: noise}


def euler(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        yield _stage(s, _to(t / s))


def euler_ancestral(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        down, factor, up = _renewed(levels, s, t)
        if t == 0:
            yield _stage(s, _ESTIMATE)
        else:
            yield _stage(s, _scaled(_to(down / s), factor, up), noise=FreshNoise())


def ddpm(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        if t == 0:
            yield _stage(s, _ESTIMATE)
        else:
            ratio = (t / s) ** 2
            yield _stage(s, _to(ratio) | {_N: t * math.sqrt(s * s - t * t) / s}, noise=FreshNoise())


def heun(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        if t == 0:
            yield _stage(s, _ESTIMATE)
            continue
        yield _stage(s, _to(t / s), anchor=_KEEP_SAMPLE, history=_ESTIMATE)
        first = (s - t) * (2 * t - s) / (2 * s * t)
        yield _stage(t, {ANCHOR: t / s, _H1: first, DENOISED: (s - t) / (2 * t)})


def dpm_2(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        if t == 0:
            yield _stage(s, _ESTIMATE)
            continue
        yield from _midpoint(s, t, 1.0, 0.0)


def dpm_2_ancestral(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        down, factor, up = _renewed(levels, s, t)
        if down == 0:
            yield _stage(s, _ESTIMATE)
        else:
            yield from _midpoint(s, down, factor, up)


def _midpoint(s: float, t: float, factor: float, up: float) -> Iterator[Stage]:
    """DPM-Solver-2: the slope at the geometric middle of s and t."""
    middle = math.sqrt(s * t)
    yield _stage(s, _to(middle / s), anchor=_KEEP_SAMPLE, history=_ESTIMATE)
    first = -(s - t) * (s - middle) / (s * middle)
    slope = {ANCHOR: t / s, _H1: first, DENOISED: (s - t) / middle}
    # x + d' (t - s) with d' = (y - D2) / m and y = (m / s) x + (1 - m / s) D
    yield _stage(middle, _scaled(slope, factor, up), noise=FreshNoise() if up else None)


def dpmpp_2s_ancestral(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        down, factor, up = _renewed(levels, s, t)
        if t == 0:
            yield _stage(s, _ESTIMATE)
            continue
        if not levels.is_flow:
            middle = math.sqrt(s * down)
        elif s >= 1.0:
            middle = 0.9999
        else:
            middle = levels.sigma_of_half_log_snr((levels.half_log_snr(s) + levels.half_log_snr(down)) / 2)
        yield _stage(s, _to(middle / s), anchor=_KEEP_SAMPLE)
        line = {ANCHOR: down / s, DENOISED: 1 - down / s}
        yield _stage(middle, _scaled(line, factor, up), noise=FreshNoise())


def dpmpp_2m(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    before: float | None = None
    for s, t in pairwise(sigmas):
        ratio = t / s
        if before is None or t == 0:
            sample = _to(ratio)
        else:
            r = math.log(before / s) / math.log(s / t)
            sample = {X: ratio, DENOISED: (1 - ratio) * (1 + 1 / (2 * r)), _H1: -(1 - ratio) / (2 * r)}
        yield _stage(s, sample, history=_ESTIMATE)
        before = s


def dpmpp_sde(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        if t == 0:
            yield _stage(s, _ESTIMATE)
            continue
        middle = levels.sigma_of_half_log_snr((levels.half_log_snr(s) + levels.half_log_snr(t)) / 2)
        alpha, snr = levels.alpha(s), s / levels.alpha(s)
        alpha_middle, alpha_end = levels.alpha(middle), levels.alpha(t)
        down, up = _ancestral(snr, middle / alpha_middle)
        first = {
            X: alpha_middle / alpha * down / snr,
            DENOISED: alpha_middle * (1 - down / snr),
            _N: alpha_middle * up,
        }
        yield _stage(s, first, anchor=_KEEP_SAMPLE, noise=IntervalNoise(s, middle))
        down, up = _ancestral(snr, t / alpha_end)
        second = {ANCHOR: alpha_end / alpha * down / snr, DENOISED: alpha_end * (1 - down / snr), _N: alpha_end * up}
        yield _stage(middle, second, noise=IntervalNoise(s, t))


def dpmpp_2m_sde(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    step_before: float | None = None
    for s, t in pairwise(sigmas):
        if t == 0:
            yield _stage(s, _ESTIMATE)
            continue
        h = levels.half_log_snr(t) - levels.half_log_snr(s)
        gain = levels.alpha(t) * -math.expm1(-2 * h)
        sample = {X: t / s * math.exp(-h), DENOISED: gain, _N: t * math.sqrt(-math.expm1(-2 * h))}
        if step_before is not None:
            correction = 0.5 * gain * h / step_before
            sample |= {DENOISED: gain + correction, _H1: -correction}
        yield _stage(s, sample, history=_ESTIMATE, noise=IntervalNoise(s, t))
        step_before = h


def dpmpp_3m_sde(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    h1: float | None = None
    h2: float | None = None
    for s, t in pairwise(sigmas):
        if t == 0:
            yield _stage(s, _ESTIMATE)
            continue
        h = levels.half_log_snr(t) - levels.half_log_snr(s)
        alpha, doubled = levels.alpha(t), 2 * h
        weights = np.zeros(3)  # of D and the two estimates before it
        weights[0] = -alpha * math.expm1(-doubled)
        phi_2 = math.expm1(-doubled) / doubled + 1
        phi_3 = phi_2 / doubled - 0.5
        if h1 is not None and h2 is not None:
            r0, r1 = h1 / h, h2 / h
            p, q = np.array([1.0, -1.0, 0.0]) / r0, np.array([0.0, 1.0, -1.0]) / r1
            first, second = p + (p - q) * r0 / (r0 + r1), (p - q) / (r0 + r1)
            weights += alpha * phi_2 * first - alpha * phi_3 * second
        elif h1 is not None:
            weights += alpha * phi_2 * np.array([1.0, -1.0, 0.0]) / (h1 / h)
        sample = {
            X: t / s * math.exp(-h),
            DENOISED: float(weights[0]),
            _H1: float(weights[1]),
            _H2: float(weights[2]),
            _N: t * math.sqrt(-math.expm1(-doubled)),
        }
        yield _stage(s, sample, history=_ESTIMATE, noise=IntervalNoise(s, t))
        h1, h2 = h, h1


def lcm(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for s, t in pairwise(sigmas):
        if t == 0:
            yield _stage(s, _ESTIMATE)
        else:
            yield _stage(s, {DENOISED: 1 - t if levels.is_flow else 1.0, _N: t}, noise=FreshNoise())


def lms(levels: Parameterisation, sigmas: Sequence[float], order: int = 4) -> Iterator[Stage]:
    """Linear multistep: the slope's interpolating polynomial over the last levels, integrated from s to t."""
    for number, (s, t) in enumerate(pairwise(sigmas)):
        if t == 0:
            yield _stage(s, _ESTIMATE)
            return
        used = [sigmas[number - back] for back in range(min(number + 1, order))]
        yield _slopes(s, [_integral(used, back, s, t) for back in range(len(used))])


def _integral(nodes: Sequence[float], index: int, start: float, end: float) -> float:
    """Integral of the Lagrange basis polynomial of one node."""
    others = [node for number, node in enumerate(nodes) if number != index]
    basis = np.poly1d(np.poly(others)) / np.prod([nodes[index] - other for other in others])
    antiderivative = basis.integ()
    return float(antiderivative(end) - antiderivative(start))


def _slopes(s: float, weights: Sequence[float]) -> Stage:
    """X plus weighted slopes (X - D) / s of this and earlier stages, which are the history."""
    sample: Weights = {X: 1 + weights[0] / s, DENOISED: -weights[0] / s}
    sample |= {_H1 + back: weight for back, weight in enumerate(weights[1:])}
    return _stage(s, sample, history={X: 1 / s, DENOISED: -1 / s})


_ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def ipndm(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for number, (s, t) in enumerate(pairwise(sigmas)):
        if t == 0:
            yield _stage(s, _ESTIMATE)
            return
        yield _slopes(s, [(t - s) * weight for weight in _ADAMS_BASHFORTH[min(number, 3)]])


def res_multistep(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    """Second-order exponential integrator. Source: arXiv:2308.02157."""
    before: float | None = None
    for s, t in pairwise(sigmas):
        if before is None or t == 0:
            sample = _to(t / s)
        else:
            h = math.log(s / t)
            c2 = -math.log(before / s) / h
            phi_1 = -math.expm1(-h) / h
            phi_2 = (1 - phi_1) / h
            sample = {X: t / s, DENOISED: h * (phi_1 - phi_2 / c2), _H1: h * phi_2 / c2}
        yield _stage(s, sample, history=_ESTIMATE)
        before = s


def er_sde(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    """Extended reverse-time SDE solver, third order. Source: Cui et al. 2023, arXiv:2309.06169."""
    points = 200
    ratios = [sigma / levels.alpha(sigma) for sigma in sigmas]
    for number, (s, t) in enumerate(pairwise(sigmas)):
        if t == 0:
            yield _stage(s, _ESTIMATE)
            continue
        start, end = ratios[number], ratios[number + 1]
        alpha = levels.alpha(t)
        r = _er_scale(end) / _er_scale(start)
        weights = np.zeros(3)  # of D and the two estimates before it
        weights[0] = alpha * (1 - r)
        gap = end - start
        if number:
            places = (
                start + np.arange(points) * (gap / points) if gap > 0 else end + np.arange(points) * (-gap / points)
            )
            step = -gap / points
            scale = np.array([_er_scale(place) for place in places])
            first = np.array([1.0, -1.0, 0.0]) / (start - ratios[number - 1])
            weights += alpha * (gap + float(np.sum(step / scale)) * _er_scale(end)) * first
            if number > 1:
                before = np.array([0.0, 1.0, -1.0]) / (ratios[number - 1] - ratios[number - 2])
                second = 2 * (first - before) / (start - ratios[number - 2])
                moment = float(np.sum((places - start) * step / scale))
                weights += alpha * (gap * gap / 2 + moment * _er_scale(end)) * second
        noise = alpha * math.sqrt(max(end * end - start * start * r * r, 0.0))
        sample = {
            X: alpha / levels.alpha(s) * r,
            DENOISED: float(weights[0]),
            _H1: float(weights[1]),
            _H2: float(weights[2]),
            _N: noise,
        }
        yield _stage(s, sample, history=_ESTIMATE, noise=FreshNoise())


def _er_scale(ratio: float) -> float:
    return ratio * (math.exp(ratio**0.3) + 10)


_OFFSETS_FULL_NOISE = frozenset({"dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "er_sde"})
"""Samplers that need a finite signal-to-noise ratio: full noise of a flow model is replaced by the level just below."""

SAMPLERS: dict[str, Callable[[Parameterisation, Sequence[float]], Iterator[Stage]]] = {
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpm_2": dpm_2,
    "dpm_2_ancestral": dpm_2_ancestral,
    "lms": lms,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "ddim": euler,  # without churn they are the same step
    "ddpm": ddpm,
    "lcm": lcm,
    "ipndm": ipndm,
    "res_multistep": res_multistep,
    "er_sde": er_sde,
}
