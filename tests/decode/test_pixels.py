from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trt_worker.decode.pixels import PixelConverter, rows_not_finite


def converted(decoded: NDArray[np.float32]) -> NDArray[np.uint8]:
    rows, channels, height, width = decoded.shape
    out = np.full((rows, height, width, channels), 77, np.uint8)
    PixelConverter().to_pixels(decoded, out)
    return out


def by_definition(decoded: NDArray[np.float32]) -> NDArray[np.uint8]:
    """ComfyUI's two steps: to 0..1 and clamped, then to bytes."""
    unit = np.clip((decoded + np.float32(1)) / np.float32(2), np.float32(0), np.float32(1))
    return np.asarray(np.clip(np.float32(255) * unit, 0, 255), np.uint8).transpose(0, 2, 3, 1)


@settings(deadline=None)
@given(
    rows=st.integers(1, 3),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    spread=st.sampled_from([0.1, 1.0, 3.0, 1e6]),
    seed=st.integers(0, 999),
)
def test_every_byte_is_the_one_of_the_definition(rows: int, height: int, width: int, spread: float, seed: int) -> None:
    decoded = np.random.default_rng(seed).normal(0, spread, (rows, 3, height, width)).astype(np.float32)

    assert np.array_equal(converted(decoded), by_definition(decoded))


def test_every_representable_step_between_two_bytes_falls_on_the_same_side() -> None:
    edges = (np.arange(256, dtype=np.float32) / np.float32(255)) * np.float32(2) - np.float32(1)
    around = np.stack([np.nextafter(edges, np.float32(-2)), edges, np.nextafter(edges, np.float32(2))])
    decoded = np.broadcast_to(around, (1, 3, 3, 256)).astype(np.float32)

    assert np.array_equal(converted(decoded), by_definition(decoded))


def test_values_are_cut_not_rounded() -> None:
    decoded = np.full((1, 3, 1, 1), (100.9 / 255) * 2 - 1, np.float32)

    assert (converted(decoded) == 100).all()


@pytest.mark.parametrize("shape", [(2, 3, 130, 300), (1, 3, 2, 40_000)], ids=["many blocks", "a line past a block"])
def test_pictures_larger_than_a_block_are_whole(shape: tuple[int, ...]) -> None:
    decoded = np.random.default_rng(1).uniform(-1.2, 1.2, shape).astype(np.float32)

    assert np.array_equal(converted(decoded), by_definition(decoded))


def test_the_input_is_left_as_it_was() -> None:
    decoded = np.random.default_rng(1).uniform(-1, 1, (1, 3, 8, 8)).astype(np.float32)
    before = decoded.copy()

    converted(decoded)

    assert np.array_equal(decoded, before)


def test_an_array_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="do not go into"):
        PixelConverter().to_pixels(np.zeros((1, 3, 4, 6), np.float32), np.zeros((1, 6, 4, 3), np.uint8))


@given(st.sets(st.integers(0, 4)), st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 47))
def test_rows_with_values_that_are_not_finite_are_named(bad: set[int], value: float, position: int) -> None:
    values = np.full((5, 3, 4, 4), 3e38, np.float32)  # so large that their sum is not finite either
    for row in bad:
        values[row].reshape(-1)[position] = value

    assert rows_not_finite(values) == tuple(sorted(bad))
