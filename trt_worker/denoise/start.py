"""From what a job asks for to the state an image starts denoising in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_worker.denoise.noise import GeneratorNoise, StepNoise, cpu_randn
from trt_worker.denoise.parameterisation import Parameterisation
from trt_worker.denoise.program import FoldedProgram, fold
from trt_worker.denoise.samplers import SAMPLERS, program
from trt_worker.denoise.schedules import SCHEDULES, sigmas
from trt_worker.errors import BadJob, UnservableJob
from trt_worker.job import SamplerNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a job wants its images denoised."""

    sampler: str
    scheduler: str
    steps: int
    guidance: float
    strength: float
    node: SamplerNode = SamplerNode.KSAMPLER
    end: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """What one image begins with."""

    program: FoldedProgram
    sample: NDArray[np.float32]  # [channels, height, width]
    noise: StepNoise


def start(
    sampling: Sampling,
    levels: Parameterisation,
    shape: tuple[int, int, int],
    *,
    seed: int,
    draw: int,
    latent: NDArray[np.float32] | None,
) -> Start:
    """Prepare one image.

    Args:
        shape: of its latent, [channels, height, width].
        seed, draw: see `ImageSeed`.
        latent: the encoded source image, None without one.
    Raises: UnservableJob: the sampler or schedule is unknown, or nothing of the schedule is left. BadJob: its numbers
        are so large or small that a coefficient of a stage is no finite number.
    """
    if sampling.sampler not in SAMPLERS or sampling.scheduler not in SCHEDULES:
        raise UnservableJob(f"no sampler {sampling.sampler!r} or no schedule {sampling.scheduler!r}")
    strength = 1.0 if latent is None else sampling.strength
    steps = sigmas(
        sampling.scheduler,
        levels,
        sampling.steps,
        strength=strength,
        sampler=sampling.sampler,
        node=sampling.node,
        end=sampling.end,
    )
    if len(steps) < 2:
        raise UnservableJob(f"{sampling.node} leaves no step of {sampling.steps} of schedule {sampling.scheduler!r}")
    plan = program(sampling.sampler, levels, steps)
    of_noise, of_latent = levels.start_scales(float(steps[0]))
    sample = np.float32(of_noise) * cpu_randn(seed, shape, draw)
    if latent is not None:
        sample += np.float32(of_latent) * latent
    noise = GeneratorNoise(seed, shape, draw=draw, brownian_range=plan.brownian_range)
    folded = fold(plan, sampling.guidance)
    if not all(np.isfinite(numbers).all() for numbers in (folded.mix, folded.c_in, folded.timestep)):
        raise BadJob(
            f"{sampling.sampler} over {sampling.scheduler} in {sampling.steps} steps at guidance {sampling.guidance:g} "
            f"and strength {sampling.strength:g} has a coefficient that is no finite number"
        )
    return Start(program=folded, sample=sample, noise=noise)
