"""The plain way to run a program: one image, one stage after another. The oracle of every faster way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trt_worker.denoise.noise import StepNoise
from trt_worker.denoise.program import REGISTERS, Program, X

Denoiser = Callable[[NDArray[np.float32], float], NDArray[np.float32]]
"""Takes a sample and its noise level, gives the denoised estimate."""


def run(program: Program, denoiser: Denoiser, start: NDArray[np.float32], noise: StepNoise) -> NDArray[np.float32]:
    """Run all stages in float32.

    Args:
        start: the noisy sample before the first stage, any shape.
    Returns: the final sample.
    """
    registers = np.zeros((REGISTERS, *start.shape), np.float32)
    registers[X] = start
    for stage in program.stages:
        estimate = denoiser(registers[X], stage.sigma)
        drawn = noise.draw(stage.noise)
        tensors = np.stack([*registers, estimate, np.zeros_like(start) if drawn is None else drawn])
        registers = np.tensordot(stage.mix.astype(np.float32), tensors, axes=1).astype(np.float32)
    final: NDArray[np.float32] = registers[X]
    return final
