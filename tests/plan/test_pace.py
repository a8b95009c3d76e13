"""When a job would be done."""

from __future__ import annotations

from trt_worker.plan.pace import Pace


def test_nothing_is_known_before_the_first_job() -> None:
    assert Pace().finish(10.0, ahead=5.0, own=5.0) == 10.0


def test_what_is_ahead_is_shared_by_the_devices_and_the_job_itself_is_not() -> None:
    pace = Pace(seconds_per_megapixel_step=2.0, overhead_seconds=1.0)

    assert pace.finish(0.0, ahead=8.0, own=3.0) == 2 * (8 + 3) + 1
    assert pace.finish(0.0, ahead=8.0, own=3.0, devices=4) == 2 * (2 + 3) + 1


def test_the_first_measurement_is_taken_whole_and_later_ones_by_a_fifth() -> None:
    first = Pace().measured(2.0, device_seconds=4.0, overhead_seconds=1.0)
    second = first.measured(1.0, device_seconds=12.0, overhead_seconds=6.0)

    assert first.seconds_per_megapixel_step == 2.0
    assert second == Pace(seconds_per_megapixel_step=0.8 * 2 + 0.2 * 12, overhead_seconds=0.8 * 1 + 0.2 * 6)


def test_a_job_without_work_measures_nothing() -> None:
    pace = Pace(seconds_per_megapixel_step=2.0)

    assert pace.measured(0.0, device_seconds=9.0, overhead_seconds=9.0) == pace
