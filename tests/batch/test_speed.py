"""What steps cost, and how many rows are worth it."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_worker.batch.speed import REMEMBERED, BatchSpeed, weighted_median, worthwhile_rows

SECONDS = st.floats(1e-4, 10.0)


def test_a_slow_step_among_others_changes_nothing() -> None:
    speed = BatchSpeed()
    for seconds in (0.1, 0.1, 0.1, 9.0):
        speed.measured("key", 2, seconds)

    assert speed.seconds("key", 2) == 0.1


def test_what_has_become_slower_is_believed_before_the_old_measurements_are_forgotten() -> None:
    speed = BatchSpeed()
    for seconds in [0.1] * REMEMBERED + [0.3] * 5:
        speed.measured("key", 1, seconds)

    assert speed.seconds("key", 1) == 0.3


def test_nothing_is_expected_before_anything_is_measured() -> None:
    assert BatchSpeed().seconds("key", 4) == 0.0
    assert not BatchSpeed().known("key")


def test_a_row_count_that_never_ran_is_expected_to_gain_until_it_is_measured() -> None:
    speed = BatchSpeed()
    speed.measured("key", 1, 0.1)
    assert speed.seconds("key", 4) / 4 < 0.1
    assert worthwhile_rows(lambda rows: speed.seconds("key", rows), 4, least_gain=0.04) == 4

    for rows in (2, 3, 4):
        speed.measured("key", rows, 0.1 * rows)

    assert worthwhile_rows(lambda rows: speed.seconds("key", rows), 4, least_gain=0.04) == 1


def test_rows_are_added_while_each_doubling_gains_more_than_the_threshold() -> None:
    fixed, each = 0.5, 1.0  # seconds per row: 1.5, 1.25, 1.125, 1.0625 at 1, 2, 4, 8 rows

    assert worthwhile_rows(lambda rows: fixed + each * rows, 8, least_gain=0.12) == 2
    assert worthwhile_rows(lambda rows: fixed + each * rows, 8, least_gain=0.01) == 8
    assert worthwhile_rows(lambda rows: fixed + each * rows, 8, least_gain=0.3) == 1


def test_a_row_count_that_happens_to_be_slow_does_not_hide_a_faster_one() -> None:
    seconds = {1: 1.0, 2: 1.5, 3: 2.9, 4: 2.6}

    assert worthwhile_rows(seconds.__getitem__, 4, least_gain=0.04) == 4


@given(times=st.lists(SECONDS, min_size=8, max_size=8), gain=st.floats(0.01, 0.3))
def test_rows_beyond_one_are_only_taken_for_a_gain(times: list[float], gain: float) -> None:
    def seconds(rows: int) -> float:
        return times[rows - 1]

    rows = worthwhile_rows(seconds, 8, least_gain=gain)

    assert 1 <= rows <= 8
    assert seconds(rows) / rows <= seconds(1)
    if rows > 1:
        assert seconds(rows) / rows < seconds(1) * (1 - gain) ** 0.99


@given(st.lists(SECONDS, min_size=1, max_size=REMEMBERED))
def test_the_median_is_one_of_the_measurements(times: list[float]) -> None:
    assert weighted_median(deque(times)) in times


def test_the_median_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        weighted_median(deque())
