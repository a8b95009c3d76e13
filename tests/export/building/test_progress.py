"""Time left: the estimate at first, what the phases really take later."""

from __future__ import annotations

from itertools import pairwise

import pytest

from trt_export.building.progress import PHASES, Track, seconds_left

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
