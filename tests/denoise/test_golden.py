"""Schedules and samplers against reference tables, every entry that is found in GOLDEN_DIR.

Entries are named `MODEL/SCHEDULER/STEPS` and `MODEL/SAMPLER/SCHEDULER/STEPS/seedN`. Passed over, by name, is only what
no sampler, schedule or family of models of ours is called.
"""

from __future__ import annotations

import json
import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.architectures.noise_levels import Prediction
from trt_worker.denoise.noise import GeneratorNoise, cpu_randn
from trt_worker.denoise.parameterisation import Parameterisation, cascade, flow, flux, stable_diffusion
from trt_worker.denoise.program import Program
from trt_worker.denoise.reference import run
from trt_worker.denoise.samplers import SAMPLERS, program
from trt_worker.denoise.schedules import SCHEDULES, sigmas

pytestmark = pytest.mark.golden

GOLDEN = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[1] / "data" / "golden"))
BROWNIAN = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")
"""Their noise is a tree's, which is another one where a noise level differs in its last bit."""


@lru_cache
def levels_of(model: str) -> Parameterisation:
    """Noise levels of a table's model: `sd_eps`, `sd2_v`, `flow_shift3`, `flux_shift1.15`, `cascade`, and their kin."""
    family, _, number = re.fullmatch(r"([a-z]+)(.*?)((?<=shift)[\d.]+)?", model).groups()  # type: ignore[union-attr]
    match family:
        case "sd" | "sdxl":
            return stable_diffusion(Prediction.V if model.endswith("_v") else Prediction.EPSILON)
        case "flow":
            return flow(float(number or 1.0), multiplier=1.0)
        case "flux":
            return flux(float(number or 1.15))
        case "cascade":
            return cascade(float(number or 1.0))
    pytest.skip(f"no noise levels for {model}")


def entries(file: str) -> list[str]:
    with np.load(GOLDEN / file) as tables:
        return [name for name in tables.files if "/" in name]


@pytest.mark.parametrize("name", entries("sigmas.npz"))
def test_a_schedule_is_the_reference_schedule(name: str) -> None:
    model, scheduler, steps = name.split("/")
    if scheduler not in SCHEDULES:
        pytest.skip(f"no schedule {scheduler}")
    with np.load(GOLDEN / "sigmas.npz") as tables:
        expected = tables[name]
    if not np.isfinite(expected).all():
        pytest.skip("the reference itself is not finite here")

    made = sigmas(scheduler, levels_of(model), int(steps))

    tolerance = 1e-5 if model.startswith("cascade") else 2e-6  # a cosine's last bit counts more near time 0
    np.testing.assert_allclose(made, expected, rtol=tolerance, atol=1e-7)


def test_schedules_of_the_horde_are_the_reference_to_the_last_bit() -> None:
    """Noise of SDE samplers depends on it. Of `normal`, a rounding inside an interpolation is missed now and then."""
    with np.load(GOLDEN / "sigmas.npz") as tables:
        found = [name for name in tables.files if re.fullmatch(r"sd\w*/(normal|karras)/\d+", name)]
        pairs = [
            (sigmas(scheduler, levels_of(model), int(steps)), tables[name])
            for name in found
            for model, scheduler, steps in [name.split("/")]
        ]
    if not pairs:
        pytest.skip("no such schedule in the tables")

    same = [np.float32(ours) == np.float32(theirs) for ours, theirs in pairs]

    assert np.concatenate(same).mean() > 0.95


@pytest.mark.parametrize("name", entries("trajectories.npz"))
def test_a_sampler_ends_where_the_reference_ends(name: str) -> None:
    sampler, scheduler = name.split("/")[1].removesuffix("_gpu"), name.split("/")[2]
    if sampler not in SAMPLERS or scheduler not in SCHEDULES:
        pytest.skip(f"not served: {sampler} with {scheduler}")
    described = json.loads((GOLDEN / "trajectories.json").read_text()).get(name, {})
    if not described.get("finite", True):
        pytest.skip("the reference itself is not finite here")
    with np.load(GOLDEN / "trajectories.npz") as tables:
        expected, mu = tables[name], tables["mu"]

    plan, final = made(name, mu)

    assert len(plan.stages) == described.get("evaluations", len(plan.stages))
    np.testing.assert_allclose(final, expected, rtol=0, atol=0.15 if sampler in BROWNIAN else 5e-4)


def test_most_sde_runs_end_where_the_reference_ends_since_their_noise_is_the_same_tree() -> None:
    with np.load(GOLDEN / "trajectories.npz") as tables:
        found = [name for name in tables.files if "/" in name and name.split("/")[1] in BROWNIAN]
        errors = [float(np.abs(made(name, tables["mu"])[1] - tables[name]).max()) for name in found]
    if not errors:
        pytest.skip("no such sampler in the tables")

    assert np.median(errors) < 1e-4


def made(name: str, mu: NDArray[np.float32]) -> tuple[Program, NDArray[np.float32]]:
    """The program of an entry and where it ends."""
    model, sampler, scheduler, steps, seeded = name.split("/")
    sampler, levels, seed = sampler.removesuffix("_gpu"), levels_of(model), int(seeded.removeprefix("seed"))
    noise_levels = sigmas(scheduler, levels, int(steps), sampler=sampler)
    plan = program(sampler, levels, noise_levels)
    of_noise, _ = levels.start_scales(float(noise_levels[0]))
    start = np.float32(of_noise) * cpu_randn(seed, mu.shape)
    noise = GeneratorNoise(seed, mu.shape, brownian_range=plan.brownian_range, cuda=False)
    final = run(plan, lambda x, sigma: denoised(levels, mu, x, sigma), start.astype(np.float32), noise)
    return plan, final


def denoised(
    levels: Parameterisation, mu: NDArray[np.float32], x: NDArray[np.float32], s: float
) -> NDArray[np.float32]:
    """The analytic denoiser of the reference: per pixel a mixture of Gaussians at +mu and -mu with variance 0.25."""
    clean, wide = (1 - s if levels.is_flow else 1.0), x.astype(np.float64)
    variance = clean * clean * 0.25 + s * s
    mode = (2 / (1 + np.exp(-2 * wide * clean * mu / variance)) - 1) * mu
    estimate: NDArray[np.float64] = mode + clean * 0.25 / variance * (wide - clean * mode)
    return estimate.astype(np.float32)
