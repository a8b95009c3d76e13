"""A denoiser's facts make the noise levels that it was trained on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from trt_engines.architectures.noise_levels import NoiseLevels, Prediction, ShiftRule, Time
from trt_engines.architectures.registry import ARCHITECTURES, architecture
from trt_worker.denoise.levels import parameterisation_of
from trt_worker.denoise.parameterisation import Parameterisation, cascade, edm, flow, flux, stable_diffusion
from trt_worker.errors import BadJob, UnservableJob

MADE = {
    "stable_diffusion_1": [stable_diffusion()],
    "stable_diffusion_1_inpainting": [stable_diffusion()],
    "stable_diffusion_2": [stable_diffusion()],
    "stable_diffusion_2_v": [stable_diffusion(Prediction.V)],
    "stable_diffusion_2_inpainting": [stable_diffusion()],
    "sdxl": [stable_diffusion()],
    "stable_cascade": [cascade(2.0), cascade(1.0)],
    "flux_dev": [flux(1.15)],
    "flux_krea_dev": [flux(1.15)],
    "flux_schnell": [flow(1.0, multiplier=1)],
    "chroma": [flux(1.15)],
    "z_image_turbo": [flow(3.0, multiplier=1)],
    "krea_2_turbo": [flux(1.15)],
    "flux2_klein_4b": [flux(2.291180)],  # at 1024 x 1024 pixels in 4 steps
}


def made(
    levels: NoiseLevels, shift: float | None = None, width: int = 1024, height: int = 1024, steps: int = 4
) -> Parameterisation:
    return parameterisation_of(levels, shift=shift, width=width, height=height, steps=steps)


def of(name: str) -> NoiseLevels:
    return architecture(name).passes[0].levels


def assert_same(one: Parameterisation, other: Parameterisation, tolerance: float = 0.0) -> None:
    assert (one.prediction, one.time, one.multiplier) == (other.prediction, other.time, other.multiplier)
    assert one.shift == pytest.approx(other.shift, abs=1e-6)
    np.testing.assert_allclose(one.table, other.table, rtol=tolerance)
    np.testing.assert_allclose(one.log_table, other.log_table, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("entry", ARCHITECTURES, ids=lambda entry: entry.name)
def test_every_architecture_has_the_levels_of_its_kind(entry: object) -> None:
    name, passes = entry.name, entry.passes  # type: ignore[attr-defined]

    for one, expected in zip(passes, MADE[name], strict=True):
        assert_same(made(one.levels), expected, 2e-6 if name == "flux2_klein_4b" else 0.0)


@pytest.mark.parametrize(
    ("size", "steps", "mu"),
    [((1024, 1024), 4, 2.29118), ((1024, 1024), 8, 2.26789), ((1088, 1024), 4, 1.19333), ((512, 512), 4, 2.03069)],
)
def test_the_shift_of_flux_2_follows_size_and_steps(size: tuple[int, int], steps: int, mu: float) -> None:
    levels = made(of("flux2_klein_4b"), width=size[0], height=size[1], steps=steps)

    assert levels.shift == pytest.approx(mu, abs=5e-6)
    assert levels.table[4999] == pytest.approx(1 / (1 + math.exp(-mu)), rel=1e-5), "half of the time"


@pytest.mark.parametrize("name", ["sdxl", "stable_cascade", "flux_dev", "z_image_turbo"])
def test_only_flux_2_asks_for_size_and_steps(name: str) -> None:
    assert made(of(name)) is made(of(name), width=512, height=768, steps=30), "and it is made once"


@pytest.mark.parametrize("name", ["z_image_turbo", "flux_dev", "flux2_klein_4b"])
def test_a_job_s_shift_wins_over_that_of_its_flow_model(name: str) -> None:
    assert_same(made(of(name), shift=5.0), flow(5.0, multiplier=1))


CONTINUOUS = of("sdxl").with_checkpoint(prediction="v_prediction", sigma_min=0.002, sigma_max=120.0)


@pytest.mark.parametrize("levels", [of("sdxl"), of("stable_cascade"), CONTINUOUS], ids=["sdxl", "cascade", "edm"])
def test_a_shift_is_unservable_by_a_model_that_has_none(levels: NoiseLevels) -> None:
    with pytest.raises(UnservableJob, match=f"as for a flow model, and this one predicts {levels.prediction}"):
        made(levels, shift=3.0)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan])
def test_a_shift_that_gives_no_levels_is_the_job_s_own_fault(shift: float) -> None:
    with pytest.raises(BadJob, match="above 0 and finite"):
        made(of("z_image_turbo"), shift=shift)


def test_a_checkpoint_has_the_levels_that_it_says() -> None:
    sdxl = architecture("sdxl")

    velocity = sdxl.predicting("v_prediction", zero_terminal_snr=True).passes[0].levels
    continuous = sdxl.predicting("v_prediction", sigma_min=0.01, sigma_max=80.0).passes[0].levels
    straight = sdxl.predicting("flow", shift=2.5).passes[0].levels
    shifted = architecture("z_image_turbo").predicting(shift=6.0).passes[0].levels

    assert_same(made(velocity), stable_diffusion(Prediction.V, zero_terminal_snr=True))
    assert_same(made(continuous), edm(sigma_min=0.01, sigma_max=80.0))
    assert_same(made(straight), flow(2.5, multiplier=1000))
    assert_same(made(shifted), flow(6.0, multiplier=1))
    assert sdxl.predicting() == sdxl


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prediction": Prediction.FLOW}, "cannot predict"),
        ({"time": Time.FLUX}, "cannot predict"),
        ({"time": Time.COSINE, "zero_terminal_snr": True}, "no betas"),
        ({"sigma_min": 0.1, "sigma_max": 1.0}, "no lowest and highest"),
        ({"time": Time.EDM}, "None to None are no range"),
        ({"time": Time.EDM, "sigma_min": 2.0, "sigma_max": 2.0}, "2.0 to 2.0 are no range"),
        ({"time": Time.EDM, "sigma_min": 0.0, "sigma_max": 2.0}, "0.0 to 2.0 are no range"),
        ({"time": Time.EDM, "sigma_min": 0.1, "sigma_max": math.inf}, "0.1 to inf are no range"),
        ({"time": Time.EDM, "sigma_min": math.nan, "sigma_max": 2.0}, "nan to 2.0 are no range"),
    ],
)
def test_facts_that_contradict_each_other_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(of("sdxl"), **changes)  # type: ignore[arg-type]


def test_a_fixed_shift_is_the_one_that_is_said() -> None:
    levels = NoiseLevels(prediction=Prediction.FLOW, time=Time.FLUX, shift=0.5, shift_rule=ShiftRule.FIXED)

    assert_same(made(levels), flux(0.5))
