"""Whose doing a lost device process is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trt_worker.plan.blame import RECENT_SECONDS, Culprit, Loss, Passenger, accuse, recent, suspected_engines


def a_loss(at: float, *jobs: str, device: int = 1, backend: str = "fast", engine: str = "engine") -> Loss:
    aboard = frozenset(Passenger(job=job, backend=backend, engine=engine) for job in jobs)
    return Loss(device=device, at=at, aboard=aboard)


def of(job: str, *losses: Loss, backend: str = "fast") -> Culprit:
    return accuse(job, backend, losses, limit=2)


def test_one_loss_says_nothing() -> None:
    assert of("a", a_loss(1, "a")) is Culprit.UNKNOWN


def test_a_job_that_was_alone_aboard_twice_is_the_culprit_on_whatever_devices() -> None:
    assert of("a", a_loss(1, "a"), a_loss(2, "a")) is Culprit.JOB
    assert of("a", a_loss(1, "a"), a_loss(2, "a", device=2)) is Culprit.JOB


def test_a_job_whose_company_changed_is_the_culprit_and_its_company_is_not() -> None:
    losses = a_loss(1, "a", "b"), a_loss(2, "a", "c")

    assert of("a", *losses) is Culprit.JOB
    assert of("b", *losses) is of("c", *losses) is Culprit.UNKNOWN


def test_of_jobs_that_were_always_together_each_may_be_it_until_one_is_lost_alone() -> None:
    together = a_loss(1, "a", "b"), a_loss(2, "a", "b")

    assert of("a", *together) is of("b", *together) is Culprit.ONE_OF_SEVERAL
    assert of("a", *together, a_loss(3, "a")) is Culprit.JOB
    assert of("b", *together, a_loss(3, "a")) is Culprit.DEVICE


def test_a_device_that_loses_processes_without_the_job_speaks_for_the_job_on_that_device_alone() -> None:
    unreliable = a_loss(0, "x"), a_loss(1, "a"), a_loss(2, "a")

    assert of("a", *unreliable) is Culprit.DEVICE
    assert of("a", *unreliable, a_loss(3, "a", device=2)) is Culprit.DEVICE
    assert of("a", a_loss(0, "x"), a_loss(1, "a", device=2), a_loss(2, "a", device=2)) is Culprit.JOB


def test_losses_on_another_backend_are_another_matter() -> None:
    losses = a_loss(1, "a"), a_loss(2, "a")

    assert of("a", *losses, backend="slow") is Culprit.UNKNOWN


def test_what_was_long_ago_is_forgotten() -> None:
    old, new = a_loss(0, "a"), a_loss(1, "a")

    assert recent([old, new], RECENT_SECONDS + 0.5) == (new,)


def test_an_engine_is_suspected_when_no_single_job_explains_its_losses() -> None:
    of_one_job = a_loss(1, "a", "b"), a_loss(2, "a")
    of_several = *of_one_job, a_loss(3, "c")

    assert suspected_engines(of_one_job, limit=2) == {}
    assert suspected_engines(of_several, limit=2) == {(1, "fast", "engine"): 3}


def test_a_loss_with_two_engines_aboard_speaks_against_neither() -> None:
    both = frozenset(Passenger(job=engine, backend="fast", engine=engine) for engine in ("small", "large"))
    losses = [Loss(device=1, at=at, aboard=both) for at in (1, 2)]

    assert suspected_engines(losses, limit=1) == {}


losses = st.lists(
    st.builds(
        Loss,
        device=st.integers(1, 3),
        at=st.floats(0, 100),
        aboard=st.frozensets(
            st.builds(Passenger, job=st.sampled_from("abcd"), backend=st.just("fast"), engine=st.just("engine")),
            max_size=4,
        ),
    ),
    max_size=12,
)


@given(losses=losses, limit=st.integers(1, 4))
def test_no_job_is_blamed_before_its_limit_and_none_is_replayed_past_twice_that(losses: list[Loss], limit: int) -> None:
    for job in "abcd":
        own = sum(job in loss.jobs for loss in losses)
        culprit = accuse(job, "fast", losses, limit=limit)

        assert (culprit is Culprit.UNKNOWN) == (own < limit)
        if own >= 2 * limit:
            assert culprit is Culprit.JOB


@given(losses=losses)
def test_a_job_alone_in_all_losses_of_its_devices_is_blamed_and_nobody_else_is(losses: list[Loss]) -> None:
    poisoned = [Loss(device=loss.device, at=loss.at, aboard=loss.aboard | {POISON}) for loss in losses]
    alone = [Loss(device=1, at=-1, aboard=frozenset({POISON}))]

    blamed = {job for job in ("poison", *"abcd") if accuse(job, "fast", [*poisoned, *alone], limit=2) is Culprit.JOB}

    assert ("poison" in blamed) == (len(poisoned) >= 1)
    assert all(sum(job in loss.jobs for loss in losses) >= 4 for job in blamed - {"poison"})


POISON = Passenger(job="poison", backend="fast", engine="engine")
