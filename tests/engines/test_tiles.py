"""Tiles cover a picture, lie inside it, and fade into each other without a trace."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_engines.bucket import Bucket
from trt_engines.tiles import OVERLAP, SIDES, Tile, buckets_whole_or_tile, fades_of, tiles_of

STEPS = st.sampled_from((1, 8, 16, 64))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, tuple[Tile, ...], int, int]:
    """Width, height, their tiles, the overlap and the step."""
    step = draw(STEPS)
    overlap = draw(st.integers(1, 6))
    sides = []
    for _ in range(2):
        tile = draw(st.integers(overlap + 1, 16))
        sides.append((tile, draw(st.integers(tile, 60))))
    (wide, width), (high, height) = sides
    tiles = tiles_of(width * step, height * step, (wide * step, high * step), overlap * step, step)
    return width * step, height * step, tiles, overlap * step, step


@given(layouts())
def test_tiles_have_one_size_and_lie_inside_on_the_step(
    layout: tuple[int, int, tuple[Tile, ...], int, int],
) -> None:
    width, height, tiles, _, step = layout

    assert len({(one.width, one.height) for one in tiles}) == 1
    for one in tiles:
        assert 0 <= one.left <= width - one.width
        assert 0 <= one.top <= height - one.height
        assert one.left % step == one.top % step == 0


@given(layouts())
def test_neighbours_have_what_was_asked_for_in_common(
    layout: tuple[int, int, tuple[Tile, ...], int, int],
) -> None:
    width, _, tiles, overlap, _ = layout
    lefts = sorted({one.left for one in tiles})

    assert lefts[0] == 0
    assert lefts[-1] + tiles[0].width == width
    assert all(before + tiles[0].width - left >= overlap for before, left in pairwise(lefts))


@given(layouts())
def test_weights_are_never_negative_and_add_up_to_one_everywhere(
    layout: tuple[int, int, tuple[Tile, ...], int, int],
) -> None:
    width, height, tiles, _, step = layout
    total = np.zeros((height // step, width // step))

    for tile, fade in zip(tiles, fades_of(tiles, step), strict=True):
        weights = fade.weights
        assert weights.shape == (tile.height // step, tile.width // step)
        assert weights.dtype == np.float32
        assert weights.min() >= 0
        top, left = tile.top // step, tile.left // step
        total[top : top + weights.shape[0], left : left + weights.shape[1]] += weights

    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_what_lies_next_to_the_side_of_a_tile_is_not_used_but_at_the_sides_of_the_picture() -> None:
    tiles = tiles_of(896, 512, (512, 512), 128, 8)

    left, right = fades_of(tiles)

    assert [(one.left, one.top) for one in tiles] == [(0, 0), (384, 0)]
    assert (left.columns[:416] == 1).all()
    assert (left.columns[-32:] == 0).all()
    assert (right.columns[:32] == 0).all()
    assert (left.rows == 1).all()
    assert left.columns[448] == pytest.approx(0.5, abs=1 / 64)


def test_a_picture_is_run_whole_if_that_can_be_and_else_in_ever_smaller_tiles() -> None:
    assert buckets_whole_or_tile(1536, 640, 8) == (
        Bucket(width=1536, height=640, rows=1),
        Bucket(width=1024, height=640, rows=1),
        Bucket(width=768, height=640, rows=1),
        Bucket(width=512, height=512, rows=1),
        Bucket(width=256, height=256, rows=1),
    )
    assert buckets_whole_or_tile(192, 256, 8) == (Bucket(width=192, height=256, rows=1),)


def test_tiles_of_every_side_overlap_by_less_than_themselves() -> None:
    assert min(SIDES) > OVERLAP


@pytest.mark.parametrize(
    ("side", "tile", "overlap", "step"),
    [(512, 256, 256, 8), (512, 256, 0, 8), (256, 512, 128, 8), (516, 256, 128, 8), (512, 256, 4, 8)],
)
def test_what_cannot_be_covered_is_refused(side: int, tile: int, overlap: int, step: int) -> None:
    with pytest.raises(ValueError, match=f"{side} pixels"):
        tiles_of(side, side, (tile, tile), overlap, step)
