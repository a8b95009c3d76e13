"""Phases in processes of their own."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

import pytest

from trt_export.child import PhaseFailed, Stopped, Tell, run_phase


def quiet(_step: str, _share: float) -> None:
    return None


def double(number: int, tell: Tell) -> int:
    tell("doubling", 0.5)
    return 2 * number


def fail(tell: Tell) -> None:
    raise ValueError("there is no such weight")


def leave(code: int, tell: Tell) -> None:
    sys.stderr.write("the library gave up\n")
    sys.stderr.flush()
    os._exit(code)


def kill_itself(tell: Tell) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def say_who_and_wait(tell: Tell) -> None:
    tell(str(os.getpid()), 0.0)
    signal.pause()


def start_another_and_wait(tell: Tell) -> None:
    """A builder with a phase of its own, as `say_who_and_wait` tells who that is."""
    run_phase(say_who_and_wait, (), tell, threading.Event())


def test_a_phase_gives_its_result_its_progress_and_its_memory() -> None:
    told: list[tuple[str, float]] = []

    finished = run_phase(double, (21,), lambda step, share: told.append((step, share)), threading.Event())

    assert finished.result == 42
    assert told == [("doubling", 0.5)]
    assert 10**6 < finished.peak_bytes < 10**9


@pytest.mark.parametrize(
    ("work", "arguments", "reason"),
    [
        (fail, (), "there is no such weight"),
        (leave, (3,), r"its process died \(exit status 3\): the library gave up"),
        (kill_itself, (), "want of memory; free some"),
    ],
)
def test_a_phase_that_ends_badly_says_why(work: object, arguments: tuple[object, ...], reason: str) -> None:
    with pytest.raises(PhaseFailed, match=reason):
        run_phase(work, arguments, quiet, threading.Event())  # type: ignore[arg-type]


def test_a_phase_that_is_told_to_stop_is_gone_when_that_is_known() -> None:
    stop, who = threading.Event(), []

    def stop_it(step: str, _share: float) -> None:
        who.append(int(step))
        stop.set()

    with pytest.raises(Stopped, match="goes on from there"):
        run_phase(say_who_and_wait, (), stop_it, stop)

    with pytest.raises(ProcessLookupError):
        os.kill(who[0], 0)


def test_a_phase_does_not_outlive_the_build_that_started_it() -> None:
    stop, who = threading.Event(), []

    def stop_it(step: str, _share: float) -> None:
        who.append(int(step))
        stop.set()  # which kills the builder and not its phase

    with pytest.raises(Stopped):
        run_phase(start_another_and_wait, (), stop_it, stop)

    # A descriptor of a process is readable once it has ended; it may have ended already.
    try:
        handle = os.pidfd_open(who[0])
    except ProcessLookupError:
        return
    assert select.select([handle], [], [], 30)[0], "the phase went on"
    os.close(handle)
