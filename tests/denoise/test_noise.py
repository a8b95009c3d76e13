"""Noise is what PyTorch draws."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torchsde
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_worker.denoise.noise import BrownianTree, GeneratorNoise, PhiloxDraw, cpu_randn
from trt_worker.denoise.program import FreshNoise, IntervalNoise


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**64 - 1), size=st.integers(16, 20_000), draw=st.integers(0, 3))
def test_cpu_noise_is_that_of_torch_for_every_seed_size_and_draw(seed: int, size: int, draw: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    expected = [torch.randn(size, generator=generator).numpy() for _ in range(draw + 1)][draw]

    np.testing.assert_allclose(cpu_randn(seed, (size,), draw), expected, rtol=0, atol=2e-6)


def test_noise_of_fewer_than_sixteen_values_is_refused_and_not_wrong() -> None:
    with pytest.raises(ValueError, match="16"):
        cpu_randn(1, (3, 5))


def test_step_noise_of_pictures_never_repeats_the_initial_noise() -> None:
    noise = GeneratorNoise(5, (4, 8, 8))

    first, second = noise.draw(FreshNoise()), noise.draw(FreshNoise())

    assert first is not None
    assert second is not None
    assert abs(float(np.corrcoef(first.ravel(), cpu_randn(5, (4, 8, 8)).ravel())[0, 1])) < 0.2
    assert abs(float(np.corrcoef(first.ravel(), second.ravel())[0, 1])) < 0.2
    assert first.std() == pytest.approx(1, abs=0.15)


@pytest.mark.filterwarnings("ignore:Should have")
@pytest.mark.parametrize(("start", "end"), [(14.614643, 9.2), (3.25, 0.0291672), (1.0, 0.999)])
def test_brownian_increments_are_those_of_torchsde(start: float, end: float) -> None:
    low, high = float(np.float32(0.0291672)), float(np.float32(14.614643))
    tree = torchsde.BrownianTree(low, torch.zeros(1, 4, 8, 8), high, entropy=11)
    a, b = float(np.float32(start)), float(np.float32(end))
    expected = -tree(b, a).numpy() / np.sqrt(abs(a - b))

    ours = BrownianTree(11, low, high, (1, 4, 8, 8)).unit_increment(start, end)

    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-3)


def test_brownian_increments_add_up() -> None:
    tree = BrownianTree(3, 0.03, 14.0, (4, 8, 8))

    whole = tree.unit_increment(9.0, 1.0) * np.sqrt(8.0)
    parts = tree.unit_increment(9.0, 4.0) * np.sqrt(5.0) + tree.unit_increment(4.0, 1.0) * np.sqrt(3.0)

    np.testing.assert_allclose(whole, parts, atol=1e-5)


_TIMES = st.floats(0.01, 15.0) | st.sampled_from([0.03, 0.030001, 7.015, 7.015001, 3.5225, 14.0])


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**64 - 1), draw=st.integers(0, 2), times=st.lists(_TIMES, min_size=2, max_size=8))
def test_brownian_values_do_not_depend_on_what_was_asked_before(seed: int, draw: int, times: list[float]) -> None:
    shape = (4, 3, 5)
    asked = BrownianTree(seed, 0.03, 14.0, shape, draw)

    for start, end in pairwise(times):
        if np.float32(start) != np.float32(end):
            ours = asked.unit_increment(start, end)
            alone = BrownianTree(seed, 0.03, 14.0, shape, draw).unit_increment(start, end)
            np.testing.assert_array_equal(ours, alone)


@pytest.mark.parametrize("draw", [0, 2])
def test_fresh_noise_is_asked_for_by_seed_and_place_in_the_stream(draw: int) -> None:
    shape, seed = (4, 8, 8), 2**63 + 5
    asked, drawn = (GeneratorNoise(seed, shape, draw=draw) for _ in range(2))

    for call in range(3):
        known = asked.ask(FreshNoise())
        assert known == PhiloxDraw(seed=seed, call=call, first=draw * 256)
        np.testing.assert_array_equal(known.values(shape), drawn.draw(FreshNoise()))


def test_noise_that_no_device_draws_is_asked_for_by_value() -> None:
    asked, drawn = (GeneratorNoise(3, (4, 8, 8), brownian_range=(0.03, 14.0)) for _ in range(2))

    assert asked.ask(None) is None
    np.testing.assert_array_equal(asked.ask(IntervalNoise(9.0, 1.0)), drawn.draw(IntervalNoise(9.0, 1.0)))


def test_reference_tables_have_the_cpu_stream_by_value() -> None:
    noise = GeneratorNoise(3, (4, 8, 8), cuda=False)

    np.testing.assert_array_equal(noise.ask(FreshNoise()), cpu_randn(3, (4, 8, 8)))
