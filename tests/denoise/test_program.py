"""What every sampler's program promises, whatever its formula."""

from __future__ import annotations

import numpy as np
import pytest

from trt_engines.architectures.noise_levels import Prediction
from trt_worker import sampler_names
from trt_worker.denoise.parameterisation import Parameterisation, edm, flow, stable_diffusion
from trt_worker.denoise.program import CONDITIONAL, NOISE, REGISTERS, UNCONDITIONAL, X, fold
from trt_worker.denoise.samplers import SAMPLERS, program
from trt_worker.denoise.schedules import sigmas
from trt_worker.denoise.start import Sampling, start
from trt_worker.errors import UnservableJob
from trt_worker.job import SamplerNode

LEVELS = {
    "epsilon": stable_diffusion(),
    "v": stable_diffusion(Prediction.V),
    "v without terminal signal": stable_diffusion(Prediction.V, zero_terminal_snr=True),
    "edm": edm(),
    "flow": flow(3.0),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_a_perfect_denoiser_is_believed_in_the_last_stage(sampler: str, levels: Parameterisation) -> None:
    if sampler == "dpm_fast":
        pytest.skip("dpm_fast ends at the last level above 0, as its reference does")
    plan = program(sampler, levels, sigmas("normal", levels, 6, sampler=sampler))

    last = plan.stages[-1].mix[X]

    assert plan.stages[-1].noise is None
    np.testing.assert_allclose(last, [0, 0, 0, 0, 0, 1, 0], atol=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_a_clean_image_stays_what_it_is_apart_from_noise(sampler: str, levels: Parameterisation) -> None:
    """With x = alpha z and an estimate of z, every stage without noise must lead to alpha z again."""
    if sampler in {"ddpm", "res_multistep_ancestral"} and levels.is_flow:
        pytest.skip(f"{sampler} is not made for flow models; it does there what the reference does")
    run = sigmas("karras" if not levels.is_flow else "simple", levels, 7, sampler=sampler)
    plan = program(sampler, levels, run)
    end = run[-2] if sampler == "dpm_fast" else 0.0
    z = 1.7
    registers = np.zeros(REGISTERS)
    registers[X] = levels.alpha(plan.stages[0].sigma) * z

    for stage, after in zip(plan.stages, [*plan.stages[1:], None], strict=True):
        registers = stage.mix @ np.array([*registers, z, 0.0])
        alpha = levels.alpha(after.sigma if after else float(end))
        assert registers[X] == pytest.approx(alpha * z, rel=1e-6)


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_folding_guidance_and_parameterisation_changes_nothing(levels: Parameterisation, guidance: float) -> None:
    random = np.random.default_rng(0)
    plan = program("dpmpp_2m_sde", levels, sigmas("normal", levels, 5))
    folded = fold(plan, guidance)

    for number, stage in enumerate(plan.stages):
        registers, c, u, n = random.normal(size=REGISTERS), *random.normal(size=3)
        a, b = levels.denoised_form(stage.sigma)
        estimate = a * registers[X] + b * (u + guidance * (c - u))
        expected = stage.mix @ np.array([*registers, estimate, n])
        np.testing.assert_allclose(folded.mix[number] @ np.array([*registers, c, u, n]), expected, rtol=1e-4, atol=1e-4)


def test_without_guidance_the_unconditional_output_has_no_weight() -> None:
    levels = stable_diffusion()

    folded = fold(program("euler", levels, sigmas("karras", levels, 4)), guidance=1.0)

    assert not folded.mix[:, :, UNCONDITIONAL].any()
    assert folded.mix[:, X, CONDITIONAL].all()
    assert not folded.mix[:, :, NOISE].any()


def test_every_sampler_and_schedule_the_worker_advertises_is_served() -> None:
    from trt_worker.denoise.schedules import SCHEDULES

    assert set(sampler_names.SAMPLERS) == set(SAMPLERS)
    assert set(sampler_names.SCHEDULERS) == set(SCHEDULES)


def test_an_image_to_image_job_runs_the_tail_of_a_longer_schedule() -> None:
    levels = stable_diffusion()

    whole, tail = sigmas("karras", levels, 20), sigmas("karras", levels, 10, strength=0.5)

    assert len(tail) == 11
    np.testing.assert_allclose(tail, whole[-11:])


@pytest.mark.parametrize("sampler", ["dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_only_under_ksampler_some_samplers_run_without_the_last_level_above_0(sampler: str, strength: float) -> None:
    levels, total = stable_diffusion(), int(10 / strength)
    longer, plain = sigmas("karras", levels, total + 1), sigmas("karras", levels, total)

    classic = sigmas("karras", levels, 10, strength=strength, sampler=sampler)
    custom = sigmas("karras", levels, 10, strength=strength, sampler=sampler, node=SamplerNode.CUSTOM)

    assert classic.tolist() == [*longer[-12:-2], 0.0]
    assert custom.tolist() == plain[-11:].tolist()


def test_a_schedule_longer_than_asked_is_cut_at_its_end_by_one_node_and_at_its_beginning_by_another() -> None:
    levels = stable_diffusion()
    whole = sigmas("ddim_uniform", levels, 30)
    assert len(whole) == 32  # 30 steps were asked for, 31 are given

    def tail(node: SamplerNode, steps: int, end: int | None = None) -> list[float]:
        strength = 1.0 if steps == 30 else steps / 30
        return sigmas("ddim_uniform", levels, steps, strength=strength, node=node, end=end).tolist()

    assert tail(SamplerNode.KSAMPLER, 30) == whole.tolist()
    assert tail(SamplerNode.KSAMPLER, 20) == whole[-21:].tolist()
    assert tail(SamplerNode.CUSTOM, 30) == whole[-31:].tolist()
    assert tail(SamplerNode.CUSTOM, 20) == whole[-21:].tolist()
    assert tail(SamplerNode.KSAMPLER_ADVANCED, 30) == whole.tolist()
    assert tail(SamplerNode.KSAMPLER_ADVANCED, 20) == whole[10:].tolist()
    assert tail(SamplerNode.KSAMPLER_ADVANCED, 20, end=30) == [*whole[10:30], 0.0]
    assert tail(SamplerNode.KSAMPLER_ADVANCED, 20, end=31) == whole[10:].tolist()


def test_a_node_that_leaves_nothing_of_a_schedule_ends_the_job_in_words() -> None:
    levels = flow(3.0)
    given = len(sigmas("beta", levels, 500)) - 1  # fewer than asked
    sampling = Sampling(
        sampler="euler", scheduler="beta", steps=500 - given, guidance=1.0, strength=(500 - given) / 500,
        node=SamplerNode.KSAMPLER_ADVANCED,
    )  # fmt: skip

    with pytest.raises(UnservableJob, match="KSamplerAdvanced leaves no step"):
        start(sampling, levels, (4, 8, 8), seed=1, draw=0, latent=np.zeros((4, 8, 8), np.float32))


def test_an_image_to_image_job_starts_from_its_source() -> None:
    levels, shape = stable_diffusion(), (4, 8, 8)
    sampling = Sampling(sampler="euler", scheduler="karras", steps=10, guidance=1.0, strength=0.2)

    begun = start(sampling, levels, shape, seed=1, draw=0, latent=np.full(shape, 50.0, np.float32))

    assert begun.sample.mean() == pytest.approx(50, abs=1)


def test_the_second_image_of_a_shared_seed_has_noise_of_its_own() -> None:
    levels, shape = stable_diffusion(), (4, 8, 8)
    sampling = Sampling(sampler="euler", scheduler="karras", steps=4, guidance=1.0, strength=1.0)

    first, second = (start(sampling, levels, shape, seed=1, draw=draw, latent=None).sample for draw in (0, 1))

    assert not np.allclose(first, second)


def test_an_unknown_sampler_is_unservable_and_named() -> None:
    sampling = Sampling(sampler="magic", scheduler="karras", steps=4, guidance=1.0, strength=1.0)

    with pytest.raises(UnservableJob, match="magic"):
        start(sampling, stable_diffusion(), (4, 8, 8), seed=1, draw=0, latent=None)
