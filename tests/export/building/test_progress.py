"""Time left: the estimate at first, what the phases really take later."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

import pytest

from trt_export.building.progress import Outlook, Planned, Track, seconds_left
from trt_export.estimates import PHASES, first_of, seconds_together

EXPECTED = {"export": 20.0, "bind": 1.0, "parse": 1.0, "build": 10.0, "certify": 8.0}


def test_before_anything_is_known_the_estimate_is_what_is_left() -> None:
    assert seconds_left(EXPECTED, {}, "export", 0.0, 0.0) == 40.0
    assert seconds_left(EXPECTED, {}, "export", 0.0, 15.0) == 25.0


def test_a_phase_that_takes_longer_than_expected_and_says_nothing_is_never_below_zero() -> None:
    assert seconds_left(EXPECTED, {}, "export", 0.0, 500.0) == 20.0


def test_a_machine_that_was_twice_as_slow_is_expected_to_stay_so() -> None:
    assert seconds_left(EXPECTED, {"export": 40.0}, "bind", 0.0, 0.0) == 40.0


def test_a_graph_from_the_cache_says_nothing_about_the_machine() -> None:
    assert seconds_left(EXPECTED, {"export": 0.01}, "bind", 0.0, 0.0) == 20.0


def test_a_phase_that_is_nearly_over_counts_by_its_own_pace() -> None:
    assert seconds_left(EXPECTED, {}, "certify", 0.9, 90.0) == pytest.approx(10.0, rel=0.2)


def test_waiting_for_another_process_leaves_all_phases_to_come() -> None:
    assert seconds_left(EXPECTED, {}, "waiting for process 7", 0.0, 3.0) == sum(EXPECTED.values())


def test_a_track_follows_a_build_from_phase_to_phase() -> None:
    track = Track(EXPECTED)
    assert track.standing(100.0).left == 40.0

    began = [track.at(phase, 0.0, 100.0 + 40 * number) for number, phase in enumerate(PHASES)]

    assert [standing.step for standing in began] == list(PHASES)
    assert all(one.done < other.done for one, other in pairwise(began))
    assert began[1].left == pytest.approx(2 * 20.0)  # the export took twice the time
    over = track.at("certify", 1.0, 300.0)
    assert (over.left, over.done) == (0.0, 1.0)


def an_outlook(*seconds: float, jobs: int = 1) -> Outlook:
    return Outlook([Planned(label="", expected={"build": one}) for one in seconds], first_of(jobs))


def test_builds_one_after_another_take_the_sum_and_builds_side_by_side_the_longest_line_of_them() -> None:
    assert an_outlook(10.0, 20.0, 5.0).left(0.0) == 35.0
    assert an_outlook(10.0, 20.0, 5.0, jobs=2).left(0.0) == 20.0
    assert an_outlook(10.0, 20.0, 15.0, jobs=2).left(0.0) == 25.0


def test_what_is_under_way_counts_with_the_rest_of_it_and_what_is_over_not_at_all() -> None:
    outlook = an_outlook(10.0, 20.0, 5.0)

    outlook.begin(0).at("build", 0.0, 100.0)
    assert outlook.left(104.0) == 31.0
    outlook.end(0)
    assert outlook.left(110.0) == 25.0


def test_builds_to_come_are_expected_at_the_pace_of_those_before_them() -> None:
    outlook = Outlook([Planned(label="", expected={"export": 10.0, "build": 10.0})] * 2, first_of(1))
    track = outlook.begin(0)
    track.at("export", 0.0, 0.0)

    track.at("build", 0.0, 20.0)  # the export took twice the time

    assert outlook.left(20.0) == 20.0 + 40.0


def test_a_build_that_is_let_in_by_its_memory_waits_for_what_runs() -> None:
    def alone(waiting: Sequence[int], running: Collection[int]) -> int | None:
        return waiting[0] if waiting and not running else None

    assert seconds_together({7: 4.0}, [0, 1], [3.0, 2.0], alone) == 9.0
