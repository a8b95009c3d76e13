"""The words that samplers are written in: a stage by what it does to the sample, and the split of a renewed step."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trt_worker.denoise.parameterisation import Parameterisation
from trt_worker.denoise.program import ANCHOR, DENOISED, HISTORY, REGISTERS, NoiseNeed, Stage, X

Weights = dict[int, float]
"""A linear combination: weight by tensor, which is a register, `DENOISED` or `NOISE`."""

NOISE: Final = 6  # column of a stage's `mix`; folding moves it behind the second network output
H1, H2, H3 = HISTORY, HISTORY + 1, HISTORY + 2

ESTIMATE: Weights = {DENOISED: 1.0}
KEEP_SAMPLE: Weights = {X: 1.0}


def stage(
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
        mix[H1, H1] = mix[H2, H2] = mix[H3, H3] = 1.0
    else:
        mix[H1] = _row(history)
        mix[H2, H1] = mix[H3, H2] = 1.0
    return Stage(sigma=sigma, mix=mix, noise=noise)


def _row(weights: Weights) -> NDArray[np.float64]:
    row = np.zeros(REGISTERS + 2)
    for tensor, weight in weights.items():
        row[tensor] = weight
    return row


def towards(ratio: float) -> Weights:
    """The sample moved towards the estimate: ratio X + (1 - ratio) D."""
    return {X: ratio, DENOISED: 1 - ratio}


def ancestral(s: float, t: float) -> tuple[float, float]:
    """(d, u) of a step whose noise is renewed completely: d * d + u * u = t * t."""
    up = min(t, t * math.sqrt(max(s * s - t * t, 0.0)) / s)
    return math.sqrt(max(t * t - up * up, 0.0)), up


def renewed(levels: Parameterisation, s: float, t: float) -> tuple[float, float, float]:
    """(d, factor on the deterministic result, factor on fresh noise) of an ancestral step.

    A step between equal levels renews nothing: d = t, and the factors' limit for t -> s is (1, 0), at full noise too.
    """
    if s == t:
        return t, 1.0, 0.0
    if not levels.is_flow:
        down, up = ancestral(s, t)
        return down, 1.0, up
    down = t * t / s
    factor = (1 - t) / (1 - down)
    return down, factor, math.sqrt(max(t * t - down * down * factor * factor, 0.0))


def scaled(weights: Weights, factor: float, noise: float) -> Weights:
    """`factor` times a combination, plus `noise` times fresh noise."""
    return {tensor: factor * weight for tensor, weight in weights.items()} | {NOISE: noise}
