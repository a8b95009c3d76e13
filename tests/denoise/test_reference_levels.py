"""Zero-terminal SNR and EDM are ComfyUI's, number by number. The numbers' source: tests/data/noise_levels/README.md."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.architectures.noise_levels import Prediction
from trt_worker.denoise.noise import GeneratorNoise, cpu_randn
from trt_worker.denoise.parameterisation import Parameterisation, edm, stable_diffusion
from trt_worker.denoise.program import fold
from trt_worker.denoise.reference import run
from trt_worker.denoise.samplers import SAMPLERS, program
from trt_worker.denoise.schedules import SCHEDULES, sigmas

with np.load(Path(__file__).parents[1] / "data" / "noise_levels" / "comfyui.npz") as tables:
    REFERENCE: dict[str, NDArray[np.float64]] = dict(tables)

LEVELS = {
    "zsnr_v": stable_diffusion(Prediction.V, zero_terminal_snr=True),
    "edm_v": edm(),
    "edm_v_narrow": edm(sigma_min=0.03, sigma_max=60.0),
}

BROWNIAN = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")
"""Their noise is a tree's, which is another one where a noise level differs in its last bit."""

IMPRECISE = ("heun", "dpm_2", "dpm_2_ancestral")
"""From level 4518 on, the reference's float32 slopes at a step's second evaluation lose this much; run in double
precision, our programs end within 3e-6 of where they end in float32."""


@pytest.mark.parametrize("model", LEVELS)
def test_tables_times_and_formulas_are_the_reference_s(model: str) -> None:
    levels, of_model = LEVELS[model], f"{model}/"
    expected = {name.removeprefix(of_model): values for name, values in REFERENCE.items() if name.startswith(of_model)}
    asked, times, shares = (expected[name].tolist() for name in ("asked", "times", "shares"))

    np.testing.assert_allclose(levels.table, expected["table"], rtol=2e-7)  # an exponential's last bit
    assert [levels.timestep(sigma) for sigma in asked] == expected["timestep"].tolist()
    np.testing.assert_allclose([levels.sigma(time) for time in times], expected["sigma"], rtol=2e-7)
    np.testing.assert_allclose([levels.sigma_after(share) for share in shares], expected["after"], rtol=2e-7)
    forms = [(levels.input_scale(sigma), *levels.denoised_form(sigma), *levels.start_scales(sigma)) for sigma in asked]
    np.testing.assert_allclose(forms, expected["forms"], rtol=1e-12)


def test_zero_terminal_snr_leaves_the_first_level_as_it_is_and_the_last_without_a_signal() -> None:
    plain, rescaled = stable_diffusion(Prediction.V), LEVELS["zsnr_v"]

    assert rescaled.sigma_min == plain.sigma_min
    assert rescaled.sigma_max == pytest.approx(4518.76, abs=0.01)
    assert (rescaled.timestep(rescaled.sigma_max), plain.timestep(plain.sigma_max)) == (999, 999)


@pytest.mark.parametrize("name", [name for name in REFERENCE if "/schedule/" in name])
def test_a_schedule_is_the_reference_schedule(name: str) -> None:
    model, _, scheduler, steps = name.split("/")

    made = sigmas(scheduler, LEVELS[model], int(steps))

    np.testing.assert_allclose(made, REFERENCE[name], rtol=2e-7)


@pytest.mark.parametrize("name", [name for name in REFERENCE if name.startswith("trajectory/")])
def test_a_sampler_ends_where_the_reference_ends(name: str) -> None:
    _, model, sampler, scheduler, steps = name.split("/")
    levels, mu = LEVELS[model], REFERENCE["mu"]
    run_levels = sigmas(scheduler, levels, int(steps), sampler=sampler)
    plan = program(sampler, levels, run_levels)
    of_noise, _ = levels.start_scales(float(run_levels[0]))
    begun = (np.float32(of_noise) * cpu_randn(7, mu.shape)).astype(np.float32)
    noise = GeneratorNoise(7, mu.shape, brownian_range=plan.brownian_range, cuda=False)

    final = run(plan, lambda x, sigma: denoised(mu, x, sigma), begun, noise)

    coarse = 0.15 if sampler in BROWNIAN else 0.03 if sampler in IMPRECISE and model == "zsnr_v" else 5e-4
    np.testing.assert_allclose(final, REFERENCE[name], rtol=0, atol=coarse)


@pytest.mark.parametrize("sampler", IMPRECISE)
def test_steps_of_two_evaluations_lose_nothing_from_pure_noise_on(sampler: str) -> None:
    levels, mu = LEVELS["zsnr_v"], REFERENCE["mu"]
    plan = program(sampler, levels, sigmas("sgm_uniform", levels, 8, sampler=sampler))
    begun = (np.float32(levels.sigma_max) * cpu_randn(7, mu.shape)).astype(np.float32)

    final = run(plan, lambda x, sigma: denoised(mu, x, sigma), begun, GeneratorNoise(7, mu.shape, cuda=False))

    noise = GeneratorNoise(7, mu.shape, cuda=False)
    exact = np.stack([begun.astype(np.float64), *np.zeros((4, *mu.shape))])
    for stage in plan.stages:
        drawn = noise.draw(stage.noise)
        estimate = mixture(mu.astype(np.float64), exact[0], stage.sigma)
        exact = np.tensordot(stage.mix, np.stack([*exact, estimate, mu * 0 if drawn is None else drawn]), axes=1)
    np.testing.assert_allclose(final, exact[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", LEVELS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_has_finite_coefficients_over_every_schedule(model: str, sampler: str) -> None:
    levels: Parameterisation = LEVELS[model]

    for scheduler, steps, strength in product(SCHEDULES, (1, 2, 3, 8, 25, 150), (1.0, 0.35)):
        run_levels = sigmas(scheduler, levels, steps, strength=strength, sampler=sampler)
        folded = fold(program(sampler, levels, run_levels), guidance=7.5)
        assert all(np.isfinite(numbers).all() for numbers in (folded.mix, folded.c_in, folded.timestep))


def mixture(mu: NDArray[np.float64], x: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """The best estimate of an image that is +mu or -mu, of variance 0.25, in the precision of its arguments."""
    variance = 0.25 + sigma * sigma
    mode = np.tanh(x * mu / variance) * mu
    estimate: NDArray[np.float64] = mode + 0.25 / variance * (x - mode)
    return estimate


def denoised(mu: NDArray[np.float64], x: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return mixture(mu.astype(np.float64), x.astype(np.float64), sigma).astype(np.float32)
