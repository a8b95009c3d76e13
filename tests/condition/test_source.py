from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trt_worker.condition.source import source_pixels
from trt_worker.errors import BadSourceImage
from trt_worker.job import SourceFit


def a_picture(width: int = 32, height: int = 16, mode: str = "RGB") -> Image.Image:
    """Red left half, blue right half."""
    picture = Image.new("RGB", (width, height), (255, 0, 0))
    picture.paste((0, 0, 255), (width // 2, 0, width, height))
    return picture.convert(mode)


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_pixels_run_from_minus_one_to_one_channels_first() -> None:
    pixels = source_pixels(saved(a_picture()), 32, 16, SourceFit.STRETCH)

    assert pixels.shape == (3, 16, 32)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert pixels[:, 0, 0].tolist() == [1, -1, -1]
    assert pixels[:, 0, -1].tolist() == [-1, -1, 1]


def test_stretching_keeps_both_ends_and_cropping_takes_the_middle() -> None:
    picture = Image.new("RGB", (64, 16), (0, 255, 0))
    picture.paste((255, 0, 0), (0, 0, 16, 16))
    picture.paste((0, 0, 255), (48, 0, 64, 16))

    stretched = source_pixels(saved(picture), 16, 16, SourceFit.STRETCH)
    cropped = source_pixels(saved(picture), 16, 16, SourceFit.COVER)

    assert stretched[0, 8, 0] > 0.9
    assert stretched[2, 8, -1] > 0.9
    assert (cropped[1] == 1).all()
    assert (cropped[0] == -1).all()


def test_a_tall_source_is_cropped_at_top_and_bottom() -> None:
    picture = Image.new("RGB", (16, 64), (255, 0, 0))
    picture.paste((0, 255, 0), (0, 16, 16, 48))

    cropped = source_pixels(saved(picture), 16, 32, SourceFit.COVER)

    assert (cropped[1] == 1).all()
    assert (cropped[0] == -1).all()


def test_a_source_that_is_no_whole_number_of_latent_cells_is_cut_in_the_middle_and_never_scaled(
    the_picture: Callable[[str], bytes],
) -> None:
    data = the_picture("odd-515x517.png")
    original = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32)

    pixels = source_pixels(data, 512, 512, SourceFit.CUT)

    middle = original[2:514, 1:513].transpose(2, 0, 1)  # 515 leaves 3, 517 leaves 5: from 1 and from 2 on
    assert np.array_equal(pixels, middle / np.float32(255) * np.float32(2) - np.float32(1))


def test_a_source_too_small_to_be_cut_is_refused() -> None:
    with pytest.raises(BadSourceImage, match="32x16, smaller than 32x24"):
        source_pixels(saved(a_picture()), 32, 24, SourceFit.CUT)


@pytest.mark.parametrize("size", [(300, 1), (1, 300), (301, 1), (2, 301)])
def test_an_extreme_strip_is_cropped_to_at_least_one_line(size: tuple[int, int]) -> None:
    pixels = source_pixels(saved(Image.new("RGB", size, (255, 0, 255))), 16, 16, SourceFit.COVER)

    assert pixels.shape == (3, 16, 16)
    assert pixels.min(axis=(1, 2)).tolist() == pixels.max(axis=(1, 2)).tolist() == [1, -1, 1]
