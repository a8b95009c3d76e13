"""Noise is what PyTorch draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchsde
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_worker.denoise.noise import BrownianTree, GeneratorNoise, cpu_randn, philox_4x32, philox_randn
from trt_worker.denoise.program import FreshNoise


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**64 - 1), size=st.integers(16, 20_000), draw=st.integers(0, 3))
def test_cpu_noise_is_that_of_torch_for_every_seed_size_and_draw(seed: int, size: int, draw: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    expected = [torch.randn(size, generator=generator).numpy() for _ in range(draw + 1)][draw]

    np.testing.assert_allclose(cpu_randn(seed, (size,), draw), expected, rtol=0, atol=2e-6)


def test_noise_of_fewer_than_sixteen_values_is_refused_and_not_wrong() -> None:
    with pytest.raises(ValueError, match="16"):
        cpu_randn(1, (3, 5))


@pytest.mark.parametrize(
    ("counter", "seed", "expected"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 0xFFFFFFFF_FFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0_A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_test_vectors(
    counter: tuple[int, ...], seed: int, expected: tuple[int, ...]
) -> None:
    words = np.array(counter, np.uint64).reshape(4, 1)

    assert tuple(int(word) for word in philox_4x32(words, seed)[:, 0]) == expected


def test_an_image_of_a_batch_has_the_part_of_the_stream_that_follows_its_neighbours() -> None:
    batch = philox_randn(9, (3, 4, 8, 8), call=2)

    alone = philox_randn(9, (4, 8, 8), call=2, first=2 * 4 * 8 * 8)

    np.testing.assert_array_equal(batch[2], alone)


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
