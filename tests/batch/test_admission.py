"""Who joins a batch, and which batch steps next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trt_worker.batch.admission import Admission, BatchKey, RunningBatch, WaitingRow, admit, next_batch

SMALL = BatchKey(model="m", backend="b", width=64, height=64)
LARGE = BatchKey(model="m", backend="b", width=128, height=128)


def a_row(
    job: str, *, key: BatchKey = SMALL, index: int = 0, arrived: float = 0.0, due: float = 60.0, left: float = 0.0
) -> WaitingRow:
    return WaitingRow(job=job, index=index, key=key, arrived=arrived, due=due, seconds_left=left)


def a_batch(key: BatchKey = SMALL, *, rows: int = 1, last_step: float = 0.0, due: float = 1e9) -> RunningBatch:
    return RunningBatch(key=key, rows=rows, room=0, last_step=last_step, due=due, seconds_left=0.0)


def test_a_row_that_cannot_be_on_time_is_reported_late_and_never_dropped() -> None:
    hopeless, fine = a_row("a", due=10.0, left=3.0), a_row("b")

    assert admit(SMALL, 4, [hopeless, fine], now=8.0) == Admission(join=(fine,), late=(hopeless,))


def test_the_oldest_join_first_and_no_more_than_there_is_room_for() -> None:
    rows = [a_row("c", arrived=3), a_row("a", arrived=1), a_row("b", arrived=2)]

    assert [row.job for row in admit(SMALL, 2, rows, now=5).join] == ["a", "b"]


def test_rows_of_another_size_wait_for_their_own_batch() -> None:
    assert admit(SMALL, 4, [a_row("a", key=LARGE)], now=0).join == ()


def test_the_fullest_batch_steps_while_nobody_is_in_a_hurry() -> None:
    batches = [a_batch(SMALL, rows=1, last_step=9.9), a_batch(LARGE, rows=3, last_step=9.95)]

    assert next_batch(batches, now=10, patience=2, guard=5) == LARGE


def test_a_batch_that_has_waited_too_long_steps_before_the_fullest() -> None:
    batches = [a_batch(SMALL, rows=1, last_step=7.0), a_batch(LARGE, rows=3, last_step=9.9)]

    assert next_batch(batches, now=10, patience=2, guard=5) == SMALL


def test_a_batch_with_an_urgent_row_steps_before_everybody() -> None:
    batches = [a_batch(SMALL, rows=1, last_step=9.9, due=13.0), a_batch(LARGE, rows=3, last_step=1.0)]

    assert next_batch(batches, now=10, patience=2, guard=5) == SMALL


def test_nothing_steps_when_nothing_runs() -> None:
    assert next_batch([a_batch(rows=0)], now=10, patience=2, guard=5) is None


@given(rows=st.lists(st.integers(1, 8), min_size=2, max_size=6), steps=st.integers(20, 120))
def test_no_batch_is_starved_whatever_the_sizes(rows: list[int], steps: int) -> None:
    """Each step takes a second; with a patience of 2 s every batch steps at least once in patience + batches steps."""
    keys = [BatchKey(model="m", backend="b", width=64 * (1 + number), height=64) for number in range(len(rows))]
    last = dict.fromkeys(keys, 0.0)
    for now in range(1, steps):
        batches = [a_batch(key, rows=count, last_step=last[key]) for key, count in zip(keys, rows, strict=True)]
        chosen = next_batch(batches, float(now), patience=2, guard=5)
        assert chosen is not None
        last[chosen] = float(now)
        assert all(now - when <= 2 + len(keys) for when in last.values())


def test_the_row_with_the_least_time_to_spare_joins_first() -> None:
    rows = [a_row("old", arrived=1, due=60), a_row("long", arrived=2, due=60, left=30)]

    assert [row.job for row in admit(SMALL, 1, rows, now=5).join] == ["long"]


def test_a_batch_that_cannot_be_on_time_any_more_hurries_nobody() -> None:
    batches = [a_batch(SMALL, rows=1, last_step=9.9, due=1.0), a_batch(LARGE, rows=3, last_step=9.8)]

    assert next_batch(batches, now=10, patience=2, guard=5) == LARGE


ROWS = st.lists(
    st.builds(
        a_row,
        st.uuids().map(str),
        key=st.sampled_from([SMALL, LARGE]),
        arrived=st.floats(0, 10),
        due=st.floats(0, 100),
        left=st.floats(0, 50),
    ),
    max_size=12,
)


@given(rows=ROWS, room=st.integers(0, 8), now=st.floats(0, 60))
def test_every_row_joins_or_waits_or_is_late_and_none_is_two_of_these(
    rows: list[WaitingRow], room: int, now: float
) -> None:
    admission = admit(SMALL, room, rows, now)

    assert set(admission.late) == {row for row in rows if now + row.seconds_left > row.due}
    assert set(admission.join).isdisjoint(admission.late)
    assert set(admission.join) <= {row for row in rows if row.key == SMALL}
    on_time = [row for row in rows if row.key == SMALL and row not in admission.late]
    assert len(admission.join) == min(room, len(on_time))
    passed_over = [row.due - row.seconds_left for row in on_time if row not in admission.join]
    assert all(row.due - row.seconds_left <= min(passed_over, default=1e9) for row in admission.join)
