from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_worker.delivery import Settlement
from trt_worker.telemetry.metrics import (
    MAX_REASONS,
    OTHER,
    BusyTime,
    JobRecord,
    Scope,
    SpeedClass,
    Tally,
    speed_class,
)

ARecord = Callable[..., JobRecord]


def speeds(tally: Tally, now: float = 200.0) -> dict[Scope, float | None]:
    return {scope: speed.window for scope, speed in tally.snapshot(now).speeds.items()}


def test_the_three_speeds_are_work_over_the_seconds_of_their_scope(a_record: ARecord) -> None:
    tally = Tally(began=0.0)
    tally.finished(a_record())

    assert speeds(tally) == {Scope.ENGINE: 10 / 2, Scope.DEVICE: 10 / 5, Scope.GRID: 10 / 10}


def test_jobs_that_share_a_batch_share_its_seconds(a_record: ARecord) -> None:
    tally = Tally(began=0.0)
    for number in range(4):
        tally.finished(a_record(id=str(number)))

    assert speeds(tally)[Scope.ENGINE] == 4 * 10 / 2
    assert tally.snapshot(200.0).speeds[Scope.ENGINE].session == 4 * 10 / 2


def test_all_images_of_a_job_count_as_work(a_record: ARecord) -> None:
    tally = Tally(began=0.0)
    tally.finished(a_record(images=3))

    assert speeds(tally)[Scope.ENGINE] == 3 * 10 / 2
    assert tally.snapshot(200.0).megapixel_steps == 30


def test_idle_time_between_jobs_does_not_count(a_record: ARecord) -> None:
    tally = Tally(began=0.0)
    tally.finished(a_record())
    tally.finished(a_record(later=500.0))

    assert speeds(tally, now=700.0) == {Scope.ENGINE: 10 / 2, Scope.DEVICE: 10 / 5, Scope.GRID: 10 / 10}


def test_the_window_forgets_and_the_session_does_not(a_record: ARecord) -> None:
    tally = Tally(began=0.0)
    tally.finished(a_record())
    tally.finished(a_record(later=2000.0, denoised=2103.0))

    engine = tally.snapshot(2200.0).speeds[Scope.ENGINE]
    assert (engine.window, engine.session) == (10 / 1, 20 / 3)
    assert tally.snapshot(9000.0).speeds[Scope.ENGINE].window is None


def test_a_job_that_made_nothing_has_no_speed_but_is_counted(a_record: ARecord) -> None:
    tally = Tally(began=0.0)
    tally.finished(
        a_record(
            images=0,
            settlement=Settlement.FAILED,
            reward=0.0,
            unit="",
            started=None,
            denoising=None,
            denoised=None,
            encoded=None,
        )
    )
    now = tally.snapshot(200.0)

    assert speeds(tally) == dict.fromkeys(Scope, None)
    assert (now.jobs, now.images, now.network_speed, now.earned) == (1, 0, None, {})
    assert now.settled[Settlement.FAILED] == 1
    assert now.settled[Settlement.PAID] == 0


def test_the_network_averages_the_last_20_images_each_timed_by_itself(a_record: ARecord) -> None:
    tally = Tally(began=0.0)
    tally.finished(a_record(steps=1000))
    tally.finished(a_record(images=4))
    assert tally.snapshot(200.0).network_speed == pytest.approx((100 + 4 * 1) / 5)

    for _ in range(5):
        tally.finished(a_record(images=4))
    assert tally.snapshot(200.0).network_speed == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("mps", "expected"),
    [
        (0.51, SpeedClass.GOOD),
        (0.5, SpeedClass.ACCEPTABLE),
        (0.3, SpeedClass.ACCEPTABLE),
        (0.29, SpeedClass.SLOW),
        (0.0, SpeedClass.SLOW),
    ],
)
def test_the_speed_class_is_the_one_operators_know(mps: float, expected: SpeedClass) -> None:
    assert speed_class(mps) is expected


def test_only_a_slow_worker_is_told_what_to_set() -> None:
    assert "extra_slow_worker" in SpeedClass.SLOW.advice
    assert SpeedClass.GOOD.advice == SpeedClass.ACCEPTABLE.advice == ""


def test_pay_is_kept_by_unit_and_told_per_hour(a_record: ARecord) -> None:
    tally = Tally(began=0.0)
    tally.finished(a_record(reward=3.0))
    tally.finished(a_record(reward=1.0))
    tally.finished(a_record(reward=10.0, unit="kudos", transport="horde"))
    now = tally.snapshot(1800.0)

    assert {unit: (earning.total, earning.per_hour) for unit, earning in now.earned.items()} == {
        "den": (4.0, 8.0),
        "kudos": (10.0, 20.0),
    }
    assert now.extrapolated
    assert not tally.snapshot(3600.0).extrapolated


def test_occupancy_is_the_mean_of_rows_over_calls() -> None:
    tally = Tally(began=0.0)
    assert tally.snapshot(1.0).occupancy is None

    tally.called(calls=3, rows=3)
    tally.called(calls=1, rows=5)

    assert tally.snapshot(1.0).occupancy == 2.0


def test_latencies_are_means_over_the_window(a_record: ARecord) -> None:
    tally = Tally(began=0.0)
    tally.finished(a_record())
    tally.finished(a_record(started=103.0))
    latency = tally.snapshot(200.0).latency

    assert (latency.waiting, latency.making, latency.handing_in) == (2.0, 4.0, 4.0)


def test_fallbacks_are_counted_by_reason_most_frequent_first_and_their_kinds_are_bounded() -> None:
    tally = Tally(began=0.0)
    tally.fell_back("no engine")
    tally.fell_back("LoRA")
    tally.fell_back("LoRA")
    assert list(tally.snapshot(1.0).fallbacks.items()) == [("LoRA", 2), ("no engine", 1)]

    for number in range(100):
        tally.fell_back(f"reason {number}")
    fallbacks = tally.snapshot(1.0).fallbacks
    assert len(fallbacks) == MAX_REASONS + 1
    assert sum(fallbacks.values()) == 103
    assert fallbacks[OTHER] == 103 - MAX_REASONS - 1


def test_a_snapshot_stays_as_it_was(a_record: ARecord) -> None:
    tally = Tally(began=0.0)
    tally.queued(2)
    before = tally.snapshot(1.0)

    tally.queued(5)
    tally.finished(a_record())
    tally.fell_back("LoRA")

    assert (before.queue, before.jobs, dict(before.fallbacks)) == (2, 0, {})
    assert before.settled[Settlement.PAID] == 0


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=40))
def test_busy_time_is_the_length_of_the_union(spans: list[tuple[int, int]]) -> None:
    busy = BusyTime()
    covered: set[int] = set()
    for start, length in spans:
        busy.add(float(start), float(start + length))
        covered |= set(range(start, start + length))

    assert busy.seconds == len(covered)


def test_busy_time_stays_small_over_weeks() -> None:
    busy = BusyTime()
    for second in range(5000):
        busy.add(second * 2.0, second * 2.0 + 1.0)

    assert busy.seconds == 5000
    assert len(busy._spans) <= BusyTime.MOST_INTERVALS
