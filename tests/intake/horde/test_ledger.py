"""Drops, holds and the server's suspicion."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from trt_worker.intake.horde.ledger import FORCED_MAINTENANCE_DROPS, Ledger
from trt_worker.intake.horde.messages import User
from trt_worker.job import ImageSeed, JobSpec


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets what the ledger's clock shows."""

    def show(now: float) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: now)

    return show


def a_job(**fields: Any) -> JobSpec:
    usual: dict[str, Any] = {
        "id": "job-0",
        "model": "m",
        "prompt": "",
        "width": 1024,
        "height": 1024,
        "steps": 30,
        "seeds": (ImageSeed(value=1), ImageSeed(value=1, draw=1)),
        "received": 0.0,
        "due": 100.0,
    }
    return JobSpec(**usual | fields)


def test_drops_are_forgotten_after_an_hour(at: Callable[[float], None]) -> None:
    ledger = Ledger()
    at(0.0)
    ledger.dropped()
    at(3000.0)
    ledger.faulted()
    assert ledger.drops_this_hour == 2

    at(3601.0)

    assert ledger.stats().drops_this_hour == 1
    assert ledger.stats().faulted == 1


def test_the_operator_is_warned_once_at_ten_drops(at: Callable[[float], None], lines: list[str]) -> None:
    ledger = Ledger()
    at(0.0)
    for _ in range(9):
        ledger.dropped()
    assert lines == []

    for _ in range(5):
        ledger.dropped()

    assert len(lines) == 1
    assert "10 images dropped" in lines[0]


def test_holds_after_single_faults_keep_a_worker_out_of_forced_maintenance(at: Callable[[float], None]) -> None:
    ledger, now = Ledger(), 0.0
    for _ in range(100):
        at(now)
        ledger.faulted()
        assert ledger.drops_this_hour < FORCED_MAINTENANCE_DROPS
        now += ledger.hold_after_fault(5.0)


def test_an_untrusted_worker_that_is_faster_than_the_server_believes_is_told_once(lines: list[str]) -> None:
    ledger = Ledger()
    ledger.user = User(trusted=False)

    ledger.watch_speed(a_job(), seconds=2.0)  # 15.7 megapixel-steps/s per image, 31 for the job
    assert lines == []
    ledger.watch_speed(a_job(), seconds=1.5)
    ledger.watch_speed(a_job(), seconds=1.5)

    assert len(lines) == 1
    assert "21 megapixel-steps/s" in lines[0]


def test_steps_of_second_order_samplers_count_twice(lines: list[str]) -> None:
    Ledger().watch_speed(a_job(sampler="heun"), seconds=3.0)

    assert "21 megapixel-steps/s" in lines[0]


def test_a_trusted_worker_may_be_as_fast_as_it_is(lines: list[str]) -> None:
    ledger = Ledger()
    ledger.user = User(trusted=True)

    ledger.watch_speed(a_job(), seconds=0.1)

    assert lines == []
