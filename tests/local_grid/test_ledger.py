"""The books notice what must not happen, and fault switches strike when they should."""

from __future__ import annotations

import pytest

from trt_worker.local_grid import Fault, Faults, Ledger, Outcome
from trt_worker.local_grid.faults import FaultInjector

pytestmark = pytest.mark.anyio


def a_ledger() -> Ledger:
    ledger = Ledger()
    ledger.submit("a", transport="grid", model="m", images=1)
    return ledger


async def test_an_unanswered_job_is_lost_unless_it_is_alive() -> None:
    ledger = a_ledger()

    assert ledger.violations(alive=["a"]) == []
    assert "lost" in ledger.violations()[0]


async def test_a_second_answer_is_a_violation() -> None:
    ledger = a_ledger()
    ledger.answer(ledger["a"], Outcome.DELIVERED)
    assert ledger.violations() == []

    ledger.answer(ledger["a"], Outcome.TIMED_OUT)

    assert "answered 2 times (delivered, timed_out)" in ledger.violations()[0]


async def test_paying_for_the_same_thing_twice_is_a_violation() -> None:
    ledger = a_ledger()
    ledger.answer(ledger["a"], Outcome.DELIVERED)
    for _ in range(2):
        ledger.pay(ledger["a"], "a", 0.5)

    assert ledger["a"].reward == 1.0
    assert any("paid twice" in violation for violation in ledger.violations())


async def test_all_answered_returns_once_nobody_waits() -> None:
    ledger = a_ledger()
    ledger.submit("b", transport="horde", model="m", images=2)
    for job in ("a", "b"):
        assert ledger.open > 0
        ledger.answer(ledger[job], Outcome.GIVEN_UP)

    await ledger.all_answered()

    assert ledger.outcomes[Outcome.GIVEN_UP] == 2


def strikes(fault: Fault, occasions: int, seed: int = 1) -> list[bool]:
    injector = FaultInjector(seed)
    injector.faults = Faults(put_error=fault)
    return [injector.strike("put_error") is not None for _ in range(occasions)]


def test_a_fault_passes_over_some_occasions_and_strikes_a_number_of_times() -> None:
    assert strikes(Fault(after=1, count=2), 5) == [False, True, True, False, False]


def test_a_probable_fault_is_repeatable_from_its_seed() -> None:
    fault = Fault(count=None, probability=0.5)

    assert strikes(fault, 64) == strikes(fault, 64)
    assert strikes(fault, 64) != strikes(fault, 64, seed=2)
    assert 10 < sum(strikes(fault, 64)) < 54


def test_an_unknown_kind_is_an_error_and_replacing_the_switches_starts_the_counts_again() -> None:
    injector = FaultInjector(0)
    injector.faults = Faults(no_ack=Fault())
    assert injector.strike("no_ack")
    assert injector.strike("no_ack") is None
    injector.faults = Faults(no_ack=Fault())

    assert injector.strike("no_ack")
    assert injector.struck["no_ack"] == 2
    with pytest.raises(KeyError, match="no fault is called"):
        injector.strike("no_such")
