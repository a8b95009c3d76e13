"""Samplers that use the estimates of earlier steps, which are the history of a row.

Notation as in `one_step`. Sources: Lu et al. 2022 (arXiv:2211.01095) for the dpmpp family, Zhang & Chen 2022
(arXiv:2204.13902) for deis and the Adams-Bashforth weights, and the k-diffusion conventions that the network's workers
share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trt_worker.denoise.parameterisation import Parameterisation
from trt_worker.denoise.program import DENOISED, FreshNoise, IntervalNoise, Stage, X
from trt_worker.denoise.stages import ESTIMATE, H1, H2, NOISE, Weights, ancestral, stage, towards


def dpmpp_2m(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    before: float | None = None
    for s, t in pairwise(sigmas):
        ratio = t / s
        if before is None or t == 0:
            sample = towards(ratio)
        else:
            r = math.log(before / s) / math.log(s / t)
            sample = {X: ratio, DENOISED: (1 - ratio) * (1 + 1 / (2 * r)), H1: -(1 - ratio) / (2 * r)}
        yield stage(s, sample, history=ESTIMATE)
        before = s


def dpmpp_2m_sde(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    return _second_order_sde(levels, sigmas, heun=False)


def dpmpp_2m_sde_heun(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    return _second_order_sde(levels, sigmas, heun=True)


def _second_order_sde(levels: Parameterisation, sigmas: Sequence[float], *, heun: bool) -> Iterator[Stage]:
    """SDE-DPM-Solver++ of order 2, by the midpoint rule or by Heun's."""
    step_before: float | None = None
    for s, t in pairwise(sigmas):
        if t == 0:
            yield stage(s, ESTIMATE)
            continue
        h = levels.half_log_snr(t) - levels.half_log_snr(s)
        kept = -math.expm1(-2 * h)
        gain = levels.alpha(t) * kept
        sample = {X: t / s * math.exp(-h), DENOISED: gain, NOISE: t * math.sqrt(kept)}
        if step_before is not None:
            correction = (levels.alpha(t) * (1 - kept / (2 * h)) if heun else 0.5 * gain) * h / step_before
            sample |= {DENOISED: gain + correction, H1: -correction}
        yield stage(s, sample, history=ESTIMATE, noise=IntervalNoise(s, t))
        step_before = h


def dpmpp_3m_sde(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    h1: float | None = None
    h2: float | None = None
    for s, t in pairwise(sigmas):
        if t == 0:
            yield stage(s, ESTIMATE)
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
            H1: float(weights[1]),
            H2: float(weights[2]),
            NOISE: t * math.sqrt(-math.expm1(-doubled)),
        }
        yield stage(s, sample, history=ESTIMATE, noise=IntervalNoise(s, t))
        h1, h2 = h, h1


def lms(levels: Parameterisation, sigmas: Sequence[float], order: int = 4) -> Iterator[Stage]:
    """Linear multistep: the slope's interpolating polynomial over the last levels, integrated from s to t."""
    for number, (s, t) in enumerate(pairwise(sigmas)):
        if t == 0:
            yield stage(s, ESTIMATE)
            return
        used = [sigmas[number - back] for back in range(min(number + 1, order))]
        yield _slopes(s, [_integral(used, back, s, t) for back in range(len(used))])


def _basis(nodes: Sequence[float], index: int) -> np.poly1d:
    """The Lagrange polynomial that is 1 at one node and 0 at the others."""
    others = [node for number, node in enumerate(nodes) if number != index]
    return np.poly1d(np.poly(others)) / np.prod([nodes[index] - other for other in others])


def _integral(nodes: Sequence[float], index: int, start: float, end: float) -> float:
    antiderivative = _basis(nodes, index).integ()
    return float(antiderivative(end) - antiderivative(start))


def _slopes(s: float, weights: Sequence[float]) -> Stage:
    """X plus weighted slopes (X - D) / s of this and earlier stages, which are the history."""
    sample: Weights = {X: 1 + weights[0] / s, DENOISED: -weights[0] / s}
    sample |= {H1 + back: weight for back, weight in enumerate(weights[1:])}
    return stage(s, sample, history={X: 1 / s, DENOISED: -1 / s})


_ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def ipndm(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    for number, (s, t) in enumerate(pairwise(sigmas)):
        if t == 0:
            yield stage(s, ESTIMATE)
            return
        yield _slopes(s, [(t - s) * weight for weight in _ADAMS_BASHFORTH[min(number, 3)]])


_DEIS_POINTS = 10_000
_DEIS_TIMES = (0.002, 80.0, 1e-3)
"""Lowest and highest noise level, and the time of the lowest, that fix DEIS's time axis; the highest is time 1."""


def deis(levels: Parameterisation, sigmas: Sequence[float], order: int = 3) -> Iterator[Stage]:
    """Diffusion exponential integrator: the slope's polynomial in variance-preserving time, integrated over the noise.

    The integral is the sum over 10,000 points that the network's workers take.
    """
    times = [_deis_time(sigma) for sigma in sigmas]
    for number, (s, t) in enumerate(pairwise(sigmas)):
        if t == 0:
            yield stage(s, ESTIMATE)
            return
        if number == 0:
            yield _slopes(s, [t - s])
            continue
        nodes = [times[number - back] for back in range(min(number + 1, order))]
        points = np.linspace(times[number], times[number + 1], _DEIS_POINTS)
        growth = _deis_growth(points) * (times[number + 1] - times[number]) / _DEIS_POINTS
        yield _slopes(s, [float(np.sum(growth * _basis(nodes, back)(points))) for back in range(len(nodes))])


def _deis_betas() -> tuple[float, float]:
    """(difference, start) of the linear noise rate whose time axis DEIS uses."""
    low, high, first = _DEIS_TIMES
    at_low, at_high = math.log1p(low * low), math.log1p(high * high)
    difference = 2 * (at_low / first - at_high) / (first - 1)
    return difference, at_high - difference / 2


def _deis_time(sigma: float) -> float:
    difference, start = _deis_betas()
    return (math.sqrt(start * start + 2 * difference * math.log1p(sigma * sigma)) - start) / difference


def _deis_growth(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Derivative of the noise level by time."""
    difference, start = _deis_betas()
    exponent = difference * times**2 / 2 + start * times
    growth: NDArray[np.float64] = (difference * times + start) * np.exp(exponent) / (2 * np.sqrt(np.expm1(exponent)))
    return growth


def gradient_estimation(levels: Parameterisation, sigmas: Sequence[float], gamma: float = 2.0) -> Iterator[Stage]:
    """Euler whose slope is corrected by its change. Source: Permenter & Yuan 2023, arXiv:2306.04848."""
    for number, (s, t) in enumerate(pairwise(sigmas)):
        if t == 0:
            yield stage(s, ESTIMATE)
            return
        yield _slopes(s, [(t - s) * gamma, (t - s) * (1 - gamma)] if number else [t - s])


def res_multistep(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    return _exponential_multistep(sigmas, renew=False)


def res_multistep_ancestral(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    return _exponential_multistep(sigmas, renew=True)


def _exponential_multistep(sigmas: Sequence[float], *, renew: bool) -> Iterator[Stage]:
    """Second-order exponential integrator. Source: arXiv:2308.02157."""
    before: float | None = None
    reached = 0.0  # the level that the step before went down to, before noise was added
    for s, t in pairwise(sigmas):
        down, up = ancestral(s, t) if renew else (t, 0.0)
        if before is None or down == 0:
            sample = towards(down / s)
        else:
            h = math.log(s / down)
            c2 = math.log(reached / before) / h
            phi_1 = -math.expm1(-h) / h
            phi_2 = (1 - phi_1) / h
            sample = {X: down / s, DENOISED: h * (phi_1 - phi_2 / c2), H1: h * phi_2 / c2}
        noise = FreshNoise() if up else None
        yield stage(s, sample | ({NOISE: up} if up else {}), history=ESTIMATE, noise=noise)
        before, reached = s, down


def er_sde(levels: Parameterisation, sigmas: Sequence[float]) -> Iterator[Stage]:
    """Extended reverse-time SDE solver, third order. Source: Cui et al. 2023, arXiv:2309.06169."""
    points = 200
    ratios = [sigma / levels.alpha(sigma) for sigma in sigmas]
    for number, (s, t) in enumerate(pairwise(sigmas)):
        if t == 0:
            yield stage(s, ESTIMATE)
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
            H1: float(weights[1]),
            H2: float(weights[2]),
            NOISE: noise,
        }
        yield stage(s, sample, history=ESTIMATE, noise=FreshNoise())


def _er_scale(ratio: float) -> float:
    return ratio * (math.exp(ratio**0.3) + 10)
