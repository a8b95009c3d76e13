"""Which device gets a job."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trt_worker.plan.placement import SWITCH_SECONDS, DeviceView, place


def a_device(
    index: int,
    *,
    failures: int = 0,
    backlog: float = 0.0,
    pace: float | None = 1.0,
    resident: bool = True,
    load_seconds: float | None = None,
    away: float = 0.0,
) -> DeviceView:
    return DeviceView(
        index=index,
        failures=failures,
        backlog=backlog,
        pace=pace,
        resident=resident,
        load_seconds=load_seconds,
        away=away,
    )


def test_the_shorter_queue_gets_the_job() -> None:
    assert place([a_device(1, backlog=9.0), a_device(2, backlog=8.0)], 1.0) == 2


def test_a_fast_card_gets_it_though_its_queue_is_longer() -> None:
    assert place([a_device(1, backlog=4.0, pace=1.0), a_device(2, backlog=8.0, pace=4.0)], 1.0) == 2


def test_the_device_that_holds_the_model_gets_it_until_waiting_costs_more_than_loading() -> None:
    holder, other = a_device(1, backlog=SWITCH_SECONDS - 1), a_device(2, resident=False)

    assert place([holder, other], 1.0) == 1
    assert place([a_device(1, backlog=SWITCH_SECONDS + 1), other], 1.0) == 2


def test_what_loading_takes_is_believed_once_it_was_measured() -> None:
    holder = a_device(1, backlog=3.0)

    assert place([holder, a_device(2, resident=False)], 1.0) == 1
    assert place([holder, a_device(2, resident=False, load_seconds=2.0)], 1.0) == 2
    assert place([holder, a_device(2, resident=False, load_seconds=4.0)], 1.0) == 1


def test_a_device_that_never_loaded_the_model_takes_as_long_for_it_as_the_others_did() -> None:
    quick = a_device(1, backlog=3.0, load_seconds=2.0)

    assert place([quick, a_device(2, resident=False)], 1.0) == 2
    assert place([a_device(1, backlog=3.0, load_seconds=4.0), a_device(2, resident=False)], 1.0) == 1


def test_a_device_whose_process_comes_back_later_leaves_its_jobs_to_one_that_is_there() -> None:
    assert place([a_device(1, away=60.0), a_device(2, backlog=30.0, resident=False)], 1.0) == 2
    assert place([a_device(1, away=1.0), a_device(2, backlog=30.0)], 1.0) == 1


def test_a_device_that_failed_with_the_job_is_the_last_to_get_it_again() -> None:
    assert place([a_device(1, failures=1), a_device(2, backlog=100.0, resident=False)], 1.0) == 2
    assert place([a_device(1, failures=1), a_device(2, failures=2)], 1.0) == 1


def test_an_unmeasured_device_counts_as_fast_as_the_others() -> None:
    assert place([a_device(1, pace=5.0, backlog=2.0), a_device(2, pace=None)], 1.0) == 2
    assert place([a_device(1, pace=5.0), a_device(2, pace=None, backlog=0.1)], 1.0) == 1


views = st.lists(
    st.builds(
        DeviceView,
        index=st.integers(1, 100),
        failures=st.integers(0, 3),
        backlog=st.floats(0, 1e6),
        pace=st.none() | st.floats(1e-3, 1e3),
        resident=st.booleans(),
        load_seconds=st.none() | st.floats(0, 1e3),
        away=st.floats(0, 1e3),
    ),
    min_size=1,
    unique_by=lambda view: view.index,
)


@given(devices=views, work=st.floats(0, 1e6))
def test_some_device_always_gets_it_and_the_order_of_asking_does_not_matter(
    devices: list[DeviceView], work: float
) -> None:
    chosen = place(devices, work)

    assert chosen in {device.index for device in devices}
    assert chosen == place(devices[::-1], work)
