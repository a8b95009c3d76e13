"""Noise on the host: microseconds of its thread per image, at the latents of 512 and of 1024 pixels.

`noise_start_us` is all that an image costs before its first step. The others are means over a run's stages: what a row
adds to a step of its batch. A step of a sampler with two evaluations is two stages.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from time import perf_counter

from trt_engines.model import find_models
from trt_worker.denoise.parameterisation import Parameterisation
from trt_worker.denoise.start import Sampling, Start, parameterisation_of, start

MODEL = "shapes-tiny"

SIDES = (64, 128)
"""Cells of a latent along an axis; it has four channels."""

STEPS = 30
ROUNDS = 5
SAMPLERS = {"ancestral": "euler_ancestral", "dpmpp_2m_sde": "dpmpp_2m_sde", "dpmpp_sde": "dpmpp_sde"}


def measure() -> dict[str, float]:
    """All figures of the suite."""
    return dict(_figures())


def _figures() -> Iterator[tuple[str, float]]:
    levels = parameterisation_of(find_models()[MODEL])
    for side in SIDES:
        yield (
            f"noise_start_us_{side}",
            statistics.median(_seconds_to_start(levels, side, seed) for seed in range(ROUNDS)) * 1e6,
        )
        for name, sampler in SAMPLERS.items():
            each = statistics.median(_seconds_of_a_stage(levels, sampler, side, seed) for seed in range(ROUNDS)) * 1e6
            yield f"noise_{name}_us_{side}", each


def _begin(levels: Parameterisation, sampler: str, side: int, seed: int) -> Start:
    sampling = Sampling(sampler=sampler, scheduler="karras", steps=STEPS, guidance=5.0, strength=1.0)
    return start(sampling, levels, (4, side, side), seed=seed, draw=0, latent=None)


def _seconds_to_start(levels: Parameterisation, side: int, seed: int) -> float:
    began = perf_counter()
    _begin(levels, "euler", side, seed)
    return perf_counter() - began


def _seconds_of_a_stage(levels: Parameterisation, sampler: str, side: int, seed: int) -> float:
    """Mean over all stages of one image, the last latent thrown away as the next is asked for."""
    image = _begin(levels, sampler, side, seed)
    began = perf_counter()
    for need in image.program.noise:
        image.noise.draw(need)
    return (perf_counter() - began) / len(image.program.noise)
