"""Schedules and samplers against reference tables, every entry that is found in GOLDEN_DIR."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_worker.denoise.noise import GeneratorNoise, cpu_randn
from trt_worker.denoise.parameterisation import Parameterisation, Prediction, cascade, flow, flux, stable_diffusion
from trt_worker.denoise.reference import run
from trt_worker.denoise.samplers import SAMPLERS, program
from trt_worker.denoise.schedules import SCHEDULES, sigmas

pytestmark = pytest.mark.golden

GOLDEN = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[1] / "data" / "golden"))
LEVELS = {
    "sd_eps": stable_diffusion(),
    "sd2_v": stable_diffusion(Prediction.V),
    "flow_shift3": flow(3.0, multiplier=1.0),
    "flux_shift1.15": flux(1.15),
    "cascade": cascade(),
}
BROWNIAN = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")
"""The tree's noise changes with the last bit of a float32 noise level, which no restatement can promise."""


def entries(file: str) -> list[str]:
    with np.load(GOLDEN / file) as tables:
        return [name for name in tables.files if "/" in name]


@pytest.mark.parametrize("name", entries("sigmas.npz"))
def test_a_schedule_is_the_reference_schedule(name: str) -> None:
    model, scheduler, steps = name.split("/")
    if model not in LEVELS or scheduler not in SCHEDULES:
        pytest.skip(f"not served: {model}/{scheduler}")
    with np.load(GOLDEN / "sigmas.npz") as tables:
        expected = tables[name]
    if not np.isfinite(expected).all():
        pytest.skip("the reference itself is not finite here")

    made = sigmas(scheduler, LEVELS[model], int(steps))

    tolerance = 2e-4 if model == "cascade" else 2e-5  # the reference computes its cosines in float32
    np.testing.assert_allclose(made, expected, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("name", entries("trajectories.npz"))
def test_a_sampler_ends_where_the_reference_ends(name: str) -> None:
    model, sampler, scheduler, steps, seeded = name.split("/")
    sampler = sampler.removesuffix("_gpu")
    if model not in LEVELS or sampler not in SAMPLERS or scheduler not in SCHEDULES:
        pytest.skip(f"not served: {model}/{sampler}/{scheduler}")
    levels, seed = LEVELS[model], int(seeded.removeprefix("seed"))
    with np.load(GOLDEN / "trajectories.npz") as tables:
        expected, mu = tables[name], tables["mu"]
    described = json.loads((GOLDEN / "trajectories.json").read_text())[name]
    if not described["finite"]:
        pytest.skip("the reference itself is not finite here")
    noise_levels = sigmas(scheduler, levels, int(steps), sampler=sampler)
    plan = program(sampler, levels, noise_levels)
    of_noise, _ = levels.start_scales(float(noise_levels[0]))
    start = np.float32(of_noise) * cpu_randn(seed, expected.shape)
    noise = GeneratorNoise(seed, expected.shape, brownian_range=plan.brownian_range, cuda=False)

    final = run(plan, lambda x, sigma: denoised(levels, mu, x, sigma), start.astype(np.float32), noise)

    assert len(plan.stages) == described["evaluations"]
    np.testing.assert_allclose(final, expected, rtol=0, atol=0.15 if sampler in BROWNIAN else 5e-4)


def denoised(
    levels: Parameterisation, mu: NDArray[np.float32], x: NDArray[np.float32], s: float
) -> NDArray[np.float32]:
    """The analytic denoiser of the reference: per pixel a mixture of Gaussians at +mu and -mu with variance 0.25."""
    clean, wide = (1 - s if levels.is_flow else 1.0), x.astype(np.float64)
    variance = clean * clean * 0.25 + s * s
    mode = (2 / (1 + np.exp(-2 * wide * clean * mu / variance)) - 1) * mu
    estimate: NDArray[np.float64] = mode + clean * 0.25 / variance * (wide - clean * mode)
    return estimate.astype(np.float32)
