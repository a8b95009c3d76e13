"""When pops may leave."""

from __future__ import annotations

import pytest

from trt_worker.intake.horde.pace import Pace


def a_pace() -> Pace:
    return Pace(first_idle_wait=1.0, longest_idle_wait=5.0, first_retry_wait=1.0)


def test_waits_without_work_grow_from_one_second_to_five_with_jitter() -> None:
    pace, now, waits = a_pace(), 0.0, []
    for _ in range(12):
        pace.nothing(now)
        waits.append(pace.not_before - now)
        now = pace.not_before

    assert 1.0 <= waits[0] <= 1.25
    assert all(0.999 <= wait <= 5.001 for wait in waits)
    assert waits[-1] == pytest.approx(5.0)
    assert pace.probing


def test_a_job_ends_the_waiting() -> None:
    pace = a_pace()
    for _ in range(5):
        pace.nothing(0.0)
    pace.job()
    assert not pace.probing

    pace.nothing(100.0)

    assert pace.not_before <= 101.25


def test_a_hold_is_not_shortened_by_an_empty_pop() -> None:
    pace = a_pace()
    pace.hold(0.0, 60.0)

    pace.nothing(1.0)
    pace.job()

    assert pace.not_before == 60.0


def test_failures_wait_longer_and_longer_and_start_over_after_an_answer() -> None:
    pace = a_pace()
    waits = [pace.failure(0.0) for _ in range(10)]
    pace.nothing(0.0)

    assert 0.5 <= waits[0] <= 1.0
    assert 30.0 <= waits[-1] <= 60.0
    assert pace.failure(0.0) <= 1.0
