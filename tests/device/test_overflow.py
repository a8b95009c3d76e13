"""What of a job's own numbers explains a picture that is not finite, and that no ordinary job is explained away."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from trt_worker.denoise.noise import GeneratorNoise
from trt_worker.denoise.parameterisation import stable_diffusion
from trt_worker.denoise.samplers import SAMPLERS
from trt_worker.denoise.start import Sampling, start
from trt_worker.device.overflow import overflow
from trt_worker.device.row import Half, Row

SHAPE = (4, 8, 8)
HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)


def a_row(
    sampler: str = "euler", scheduler: str = "karras", steps: int = 20, guidance: float = 7.5, context: float = 30.0
) -> Row:
    sampling = Sampling(sampler=sampler, scheduler=scheduler, steps=steps, guidance=guidance, strength=1.0)
    begun = start(sampling, stable_diffusion(), SHAPE, seed=1, draw=0, latent=None)
    return Row(
        job="job",
        index=0,
        program=begun.program,
        start=begun.sample,
        noise=GeneratorNoise(1, SHAPE),
        positive=Half(inputs={"context": np.full((77, 8), context, np.float32)}, tokens=77),
        negative=Half(inputs={"context": np.zeros((77, 8), np.float32)}, tokens=77),
    )


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_nothing_that_a_network_may_ask_for_is_explained_away_even_in_half_precision(sampler: str) -> None:
    for scheduler, steps in (("karras", 150), ("simple", 20), ("ddim_uniform", 1)):
        assert overflow(a_row(sampler, scheduler, steps, guidance=100.0), HALF) == ""


@pytest.mark.parametrize(
    ("row", "value", "reason"),
    [
        (a_row(context=1e5), HALF, "weights of its prompt"),
        (a_row(context=float("inf")), SINGLE, "weights of its prompt"),
        (a_row(guidance=1e5), HALF, "guidance give"),
        (a_row(guidance=1e30), SINGLE, "guidance give"),
    ],
)
def test_numbers_that_the_type_of_the_engine_cannot_hold_explain_it(
    row: Row, value: np.dtype[np.generic], reason: str
) -> None:
    assert reason in overflow(row, value)


def test_what_half_precision_cannot_hold_explains_nothing_in_a_wider_type() -> None:
    assert overflow(a_row(context=1e5), SINGLE) == ""
    assert overflow(a_row(guidance=1e5), np.dtype(ml_dtypes.bfloat16)) == ""


def test_coefficients_and_samples_that_are_no_numbers_explain_it() -> None:
    row = a_row()
    broken = np.full_like(row.program.mix, np.nan)

    assert "coefficients" in overflow(replace(row, program=replace(row.program, mix=broken)), SINGLE)
    assert "starts" in overflow(replace(row, start=np.full(SHAPE, np.inf, np.float32)), SINGLE)
