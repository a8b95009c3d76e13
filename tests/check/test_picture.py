from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trt_worker.check.picture import BLACK_LEVEL, Finding, Verdict, inspect_picture


def a_picture(height: int = 6, width: int = 8, value: int = 100) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


def test_an_ordinary_picture_passes_without_a_reason() -> None:
    finding = inspect_picture(a_picture(), width=8, height=6)

    assert finding == Finding(verdict=Verdict.OK)
    assert finding.passed


@given(st.integers(0, 6 * 8 * 3 - 1), st.integers(0, 255))
def test_one_channel_of_one_pixel_above_the_level_makes_a_picture_not_black(position: int, value: int) -> None:
    pixels = a_picture(value=BLACK_LEVEL)
    pixels.reshape(-1)[position] = value

    assert inspect_picture(pixels, width=8, height=6).verdict is (Verdict.OK if value > BLACK_LEVEL else Verdict.BLACK)


def test_a_black_picture_is_refused_with_its_brightest_value() -> None:
    finding = inspect_picture(a_picture(value=1), width=8, height=6)

    assert finding.verdict is Verdict.BLACK
    assert not finding.passed
    assert "above 1 of 255" in finding.reason


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.ones((8, 6, 3), np.uint8), "shape"),
        (np.ones((6, 8, 4), np.uint8), "shape"),
        (np.ones((1, 6, 8, 3), np.uint8), "shape"),
        (np.ones((6, 8, 3), np.float32), "float32"),
        (np.ones((6, 8, 3), np.int64), "int64"),
        (np.full((6, 8, 3), np.nan, np.float32), "144 of 144"),
    ],
    ids=["turned", "alpha", "batch", "float", "wide", "nan"],
)
def test_what_is_no_picture_of_the_job_is_broken_with_its_reason(pixels: NDArray[Any], reason: str) -> None:
    finding = inspect_picture(pixels, width=8, height=6)

    assert finding.verdict is Verdict.BROKEN
    assert reason in finding.reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_value_that_is_not_finite_is_counted(value: float) -> None:
    pixels = np.ones((6, 8, 3), np.float32)
    pixels[3, 3, 1] = value

    assert "1 of 144 values are not finite" in inspect_picture(pixels, width=8, height=6).reason
