"""A sampler as a program of coefficients: every stage is one small matrix over a row's tensors.

A row owns five registers: the sample X at which the network is evaluated next, an anchor, and three of history. A stage
evaluates the network at X and then sets every register to a linear combination of the registers, the denoised estimate
and at most one noise tensor. Guidance and parameterisation are linear too, so `fold` turns the estimate into the two
network outputs, and a whole stage of any sampler becomes one product of an 5 x 8 matrix with the row's tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trt_worker.denoise.parameterisation import Parameterisation

X: Final = 0
ANCHOR: Final = 1
HISTORY: Final = 2
REGISTERS: Final = 5
DENOISED: Final = 5
CONDITIONAL: Final = 5
UNCONDITIONAL: Final = 6
NOISE: Final = 7
TENSORS: Final = 8


UNCHANGED: Final = np.eye(REGISTERS, TENSORS, dtype=np.float32)
"""The matrix of a row that takes no part in a step: every register stays what it is, and nothing else is read."""


@dataclass(frozen=True, slots=True)
class FreshNoise:
    """The next draw of the row's noise stream."""


@dataclass(frozen=True, slots=True)
class IntervalNoise:
    """The increment of the row's Brownian motion from one noise level to another, scaled to unit variance."""

    start: float
    end: float


NoiseNeed = FreshNoise | IntervalNoise | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One evaluation of the network and what follows from it.

    `mix` is float64 [5, 7]: new registers from (X, anchor, history 1..3, denoised estimate, noise).
    """

    sigma: float
    mix: NDArray[np.float64]
    noise: NoiseNeed = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """All stages of one row, in order."""

    stages: tuple[Stage, ...]
    levels: Parameterisation
    brownian_range: tuple[float, float] | None = None  # lowest and highest noise level of the Brownian motion


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldedProgram:
    """A program ready for a device.

    `mix` is float32 [stages, 5, 8]: new registers from (X, anchor, history 1..3, conditional output, unconditional
    output, noise).
    """

    c_in: NDArray[np.float32]  # [stages], factor on X before the network sees it
    timestep: NDArray[np.float32]  # [stages]
    mix: NDArray[np.float32]
    noise: tuple[NoiseNeed, ...]


def fold(program: Program, guidance: float) -> FoldedProgram:
    """Fold guidance and parameterisation into the matrices.

    The estimate is D = a X + b (u + guidance (c - u)) with a and b of the parameterisation at the stage's noise level;
    at guidance 1 the unconditional output has the factor 0 and need not be computed.
    Source: classifier-free guidance, arXiv:2207.12598.
    """
    stages = program.stages
    mix = np.zeros((len(stages), REGISTERS, TENSORS))
    for number, stage in enumerate(stages):
        a, b = program.levels.denoised_form(stage.sigma)
        of_estimate = stage.mix[:, DENOISED]
        mix[number, :, :REGISTERS] = stage.mix[:, :REGISTERS]
        mix[number, :, X] += a * of_estimate
        mix[number, :, CONDITIONAL] = b * guidance * of_estimate
        mix[number, :, UNCONDITIONAL] = b * (1 - guidance) * of_estimate
        mix[number, :, NOISE] = stage.mix[:, 6]
    with np.errstate(over="ignore"):  # infinity is what `start` refuses a job for
        coefficients = mix.astype(np.float32)
    return FoldedProgram(
        c_in=np.array([program.levels.input_scale(stage.sigma) for stage in stages], np.float32),
        timestep=np.array([program.levels.timestep(stage.sigma) for stage in stages], np.float32),
        mix=coefficients,
        noise=tuple(stage.noise for stage in stages),
    )
