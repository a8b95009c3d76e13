"""Levels that stand beside each other without a distance, and numbers at the ends of their ranges."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trt_engines.architectures.noise_levels import Prediction
from trt_worker.denoise.noise import GeneratorNoise
from trt_worker.denoise.parameterisation import Parameterisation, cascade, edm, flow, flux, stable_diffusion
from trt_worker.denoise.program import IntervalNoise, fold
from trt_worker.denoise.reference import run
from trt_worker.denoise.samplers import SAMPLERS, program
from trt_worker.denoise.schedules import SCHEDULES, sigmas
from trt_worker.denoise.start import Sampling, start
from trt_worker.errors import BadJob

LEVELS = {
    "epsilon": stable_diffusion(),
    "v": stable_diffusion(Prediction.V),
    "v without terminal signal": stable_diffusion(Prediction.V, zero_terminal_snr=True),
    "edm": edm(),
    "cascade": cascade(2.0),
    "flux": flux(),
    **{f"shift {shift:g}": flow(shift) for shift in (0.01, 1.0, 3.0, 100.0)},
}

UNMOVED_BY_REPEATS = (
    *("euler", "heun", "dpm_2", "dpmpp_sde", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"),
    *("lms", "deis", "res_multistep"),
)


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(LEVELS)),
    scheduler=st.sampled_from(sorted(SCHEDULES)),
    steps=st.integers(1, 24) | st.sampled_from([210]),
    strength=st.floats(0.0005, 1.0) | st.sampled_from([0.01, 0.2, 1.0]),
)
def test_every_job_in_range_has_finite_coefficients(
    sampler: str, kind: str, scheduler: str, steps: int, strength: float
) -> None:
    levels: Parameterisation = LEVELS[kind]
    plan = program(sampler, levels, sigmas(scheduler, levels, steps, strength=strength, sampler=sampler))

    folded = fold(plan, guidance=7.5)

    for numbers in (folded.mix, folded.c_in, folded.timestep):
        assert np.isfinite(numbers).all()
    for need in folded.noise:
        assert not isinstance(need, IntervalNoise) or np.float32(need.start) != np.float32(need.end)


@pytest.mark.parametrize("sampler", UNMOVED_BY_REPEATS)
def test_a_repeated_level_changes_no_picture(sampler: str) -> None:
    """But for samplers that draw fresh noise for every step, or weigh estimates by how many there were."""
    levels = stable_diffusion()
    once = sigmas("karras", levels, 6, sampler=sampler)
    twice = np.insert(once, [2, 2, 4], [once[2], once[2], once[4]])
    begun = np.random.default_rng(0).normal(size=(1, 4, 4)).astype(np.float32) * np.float32(once[0])

    pictures = []
    for run_levels in (once, twice):
        plan = program(sampler, levels, run_levels)
        noise = GeneratorNoise(7, begun.shape, brownian_range=plan.brownian_range)
        pictures.append(run(plan, lambda x, sigma: np.tanh(x / np.float32(1 + sigma)), begun, noise))

    np.testing.assert_allclose(pictures[1], pictures[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_3m_sde", "res_multistep", "lms", "deis"])
def test_the_tail_of_more_levels_than_the_table_has_is_drawn(sampler: str) -> None:
    levels = stable_diffusion()
    run_levels = sigmas("simple", levels, 210, strength=0.2, sampler=sampler)
    assert any(one == other for one, other in pairwise(run_levels)), "1,050 levels out of 1,000 repeat some"

    begun = start(
        Sampling(sampler=sampler, scheduler="simple", steps=210, guidance=7.5, strength=0.2),
        levels,
        (1, 4, 4),
        seed=1,
        draw=0,
        latent=np.zeros((1, 4, 4), np.float32),
    )

    assert np.isfinite(begun.program.mix).all()


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "dpmpp_sde", "er_sde"])
def test_the_level_that_replaces_full_noise_is_above_the_one_after_it(sampler: str) -> None:
    plan = program(sampler, flow(0.01), sigmas("linear_quadratic", flow(0.01), 8, sampler=sampler))

    first, second = (stage.sigma for stage in plan.stages[:2])
    assert 1 > first > second


def test_numbers_that_no_float32_holds_are_the_job_s_own_fault() -> None:
    sampling = Sampling(sampler="euler", scheduler="normal", steps=4, guidance=1e38, strength=1.0)

    with pytest.raises(BadJob, match="guidance 1e\\+38"):
        start(sampling, stable_diffusion(), (1, 4, 4), seed=1, draw=0, latent=None)
