"""The bookkeeping of rows: nobody is lost, nobody waits for ever, batches are as large as they are worth."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from trt_worker.batch.admission import BatchKey
from trt_worker.batch.scheduler import Scheduler

SMALL = BatchKey(model="a", backend="b", width=64, height=64)
LARGE = BatchKey(model="a", backend="b", width=128, height=128)
OTHER = BatchKey(model="z", backend="b", width=64, height=64)


def enter(
    scheduler: Scheduler,
    job: str,
    *,
    index: int = 0,
    key: BatchKey = SMALL,
    arrived: float = 0.0,
    due: float = 1e9,
    stages: int = 2,
) -> None:
    scheduler.enter(job, index, key, arrived=arrived, due=due, stages=stages)


def test_rows_of_a_size_share_a_batch_until_each_has_taken_its_steps() -> None:
    scheduler = Scheduler(max_rows=4)
    enter(scheduler, "short", stages=1)
    enter(scheduler, "long", stages=2)

    first = scheduler.decide(0.0)
    assert (first.step, {row.job for row in first.join}) == (SMALL, {"short", "long"})
    assert scheduler.stepped(SMALL) == (("short", 0),)
    assert scheduler.decide(1.0).join == ()
    assert scheduler.stepped(SMALL) == (("long", 0),)
    assert scheduler.decide(2.0).step is None


def test_rows_that_gain_nothing_wait_instead_of_slowing_the_others() -> None:
    scheduler = Scheduler(max_rows=8)
    for rows in range(1, 9):
        scheduler.step_speed.measured(SMALL, rows, 1.0 * rows)
    for number in range(3):
        enter(scheduler, f"job{number}", arrived=number)

    assert [row.job for row in scheduler.decide(5.0).join] == ["job0"]
    assert scheduler.decide(6.0).join == ()


def test_a_late_row_is_reported_every_time_until_its_job_leaves() -> None:
    scheduler = Scheduler(max_rows=4)
    enter(scheduler, "hopeless", due=1.0)

    assert [row.job for row in scheduler.decide(2.0).late] == ["hopeless"]
    assert [row.job for row in scheduler.decide(3.0).late] == ["hopeless"]
    scheduler.leave("hopeless")
    assert scheduler.decide(4.0).late == ()


def test_measured_steps_say_that_a_row_cannot_be_on_time() -> None:
    scheduler = Scheduler(max_rows=1)
    scheduler.step_speed.measured(SMALL, 1, 1.0)
    scheduler.decode_speed.measured(SMALL, 1, 0.5)
    enter(scheduler, "hopeless", due=10.0, stages=10)
    enter(scheduler, "just", due=10.5, stages=10)

    decision = scheduler.decide(0.0)

    assert [row.job for row in decision.late] == ["hopeless"]
    assert [row.job for row in decision.join] == ["just"]


def test_a_row_in_the_middle_that_runs_out_of_time_has_its_batch_step_first() -> None:
    scheduler = Scheduler(max_rows=1)
    for key in (SMALL, LARGE):
        scheduler.step_speed.measured(key, 1, 1.0)
    enter(scheduler, "old", key=SMALL, arrived=0.0, stages=50)
    enter(scheduler, "hurried", key=LARGE, arrived=1.0, due=40.0, stages=20)
    assert scheduler.decide(1.0).step == SMALL

    assert scheduler.decide(16.0).step == LARGE


def test_a_batch_that_is_stepping_is_left_alone() -> None:
    scheduler = Scheduler(max_rows=4)
    enter(scheduler, "first")
    scheduler.decide(0.0)
    enter(scheduler, "second")

    decision = scheduler.decide(0.5, stepping={SMALL})

    assert decision.join == ()
    assert decision.step is None


def test_beside_a_batch_whose_turn_it_is_only_what_is_on_the_device_steps() -> None:
    scheduler = Scheduler(max_rows=4)
    enter(scheduler, "current", key=SMALL)
    scheduler.decide(0.0)
    scheduler.measured(SMALL, 1, 1.0)
    enter(scheduler, "beside", key=LARGE, arrived=1.0)
    enter(scheduler, "elsewhere", key=OTHER, arrived=1.0)

    def beside(missing: set[BatchKey]) -> BatchKey | None:
        return scheduler.decide(1.0, stepping={SMALL}, loads=missing.__contains__).step

    assert beside({LARGE, OTHER}) is None
    assert beside({OTHER}) == LARGE


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[float, BatchKey, int, int]]:
    return sorted(
        draw(
            st.lists(
                st.tuples(
                    st.floats(0, 60), st.sampled_from([SMALL, LARGE, OTHER]), st.integers(1, 12), st.integers(1, 4)
                ),
                min_size=1,
                max_size=25,
            )
        ),
        key=lambda arrival: arrival[0],
    )


@settings(max_examples=60, deadline=None)
@given(arriving=arrivals(), max_rows=st.integers(1, 8), fixed=st.floats(0.0, 1.0))
def test_every_image_is_finished_once_after_its_own_steps_and_the_device_is_never_idle(
    arriving: list[tuple[float, BatchKey, int, int]], max_rows: int, fixed: float
) -> None:
    scheduler, now, idle = Scheduler(max_rows), 0.0, 0.0
    todo = [(when, f"job{number}", *rest) for number, (when, *rest) in enumerate(arriving)]
    wanted = {(job, index) for _, job, _, _, images in todo for index in range(images)}
    finished: list[tuple[str, int]] = []
    work = 0.0
    while todo or len(finished) < len(wanted):
        while todo and todo[0][0] <= now:
            when, job, key, stages, images = todo.pop(0)
            for index in range(images):
                enter(scheduler, job, index=index, key=key, arrived=when, stages=stages)
        decision = scheduler.decide(now)
        if decision.step is None:
            assert todo
            idle, now = idle + todo[0][0] - now, todo[0][0]
            continue
        rows = scheduler.rows(decision.step)
        assert 1 <= rows <= max_rows
        seconds = fixed + 0.1 * rows
        now, work = now + seconds, work + seconds
        finished.extend(scheduler.stepped(decision.step))
        scheduler.measured(decision.step, rows, seconds)
    assert sorted(finished) == sorted(wanted)
    assert abs(now - idle - work) < 1e-6
