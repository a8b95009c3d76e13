"""Noise on the host: microseconds of its thread per image, at the latents of 512 and of 1024 pixels.

`noise_start_us` is all that an image costs before its first step. The others are means over a run's stages: what a row
adds to a step of its batch. A step of a sampler with two evaluations is two stages. `noise_asked_us` is what is left of
`noise_ancestral_us` where a device draws it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from time import perf_counter

from trt_worker.denoise.parameterisation import Parameterisation, stable_diffusion
from trt_worker.denoise.start import Sampling, Start, start

SIDES = (64, 128)
"""Cells of a latent along an axis; it has four channels."""

STEPS = 30
ROUNDS = 5
SAMPLERS = {"ancestral": "euler_ancestral", "dpmpp_2m_sde": "dpmpp_2m_sde", "dpmpp_sde": "dpmpp_sde"}


def measure() -> dict[str, float]:
    """All figures of the suite."""
    levels = stable_diffusion()
    figures = {}
    for side in SIDES:
        figures[f"noise_start_us_{side}"] = _median_us(levels, side, _seconds_to_start)
        figures[f"noise_asked_us_{side}"] = _median_us(levels, side, _seconds_to_ask)
        for name, sampler in SAMPLERS.items():
            figures[f"noise_{name}_us_{side}"] = _median_us(levels, side, partial(_seconds_to_draw, sampler))
    return figures


Begin = Callable[[str], Start]


def _median_us(levels: Parameterisation, side: int, measured: Callable[[Begin], float]) -> float:
    """Of several seeds. Args: measured: seconds of one image, which it begins with the name of a sampler."""
    return statistics.median(measured(partial(_begin, levels, side, seed)) for seed in range(ROUNDS)) * 1e6


def _begin(levels: Parameterisation, side: int, seed: int, sampler: str) -> Start:
    sampling = Sampling(sampler=sampler, scheduler="karras", steps=STEPS, guidance=5.0, strength=1.0)
    return start(sampling, levels, (4, side, side), seed=seed, draw=0, latent=None)


def _seconds_to_start(begin: Begin) -> float:
    began = perf_counter()
    begin("euler")
    return perf_counter() - began


def _seconds_to_ask(begin: Begin) -> float:
    image = begin(SAMPLERS["ancestral"])
    began = perf_counter()
    for need in image.program.noise:
        image.noise.ask(need)
    return (perf_counter() - began) / len(image.program.noise)


def _seconds_to_draw(sampler: str, begin: Begin) -> float:
    image = begin(sampler)
    began = perf_counter()
    for need in image.program.noise:
        image.noise.draw(need)
    return (perf_counter() - began) / len(image.program.noise)
