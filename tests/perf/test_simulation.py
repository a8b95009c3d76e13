"""The simulation: time is shared as it says, every job is finished, and nothing is faster than the card."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest

from trt_engines.costs.hardware import hardware
from trt_perf.simulation.card import Activity, Card, CardCosts
from trt_perf.simulation.host import NO_HOST, Host
from trt_perf.simulation.run import Rig, one_at_a_time, seconds_alone
from trt_perf.simulation.trace import FAMILIES, Job, arriving, trace

COSTS = CardCosts(hardware("RTX 4090"))
HOST = Host()


def a_job(name: str = "only", **changes: Any) -> Job:
    settings: dict[str, Any] = {"family": FAMILIES[0], "width": 512, "height": 512, "steps": 20, "tokens": 77}
    return Job(**({"id": name, "arrived": 0.0, "images": 1} | settings | changes))


def test_what_leaves_room_for_the_other_overlaps_and_what_does_not_shares() -> None:
    roomy, full = Card(), Card()
    for card, share in ((roomy, 0.5), (full, 1.0)):
        card.start("one", Activity(seconds=1.0, share=share))
        card.start("other", Activity(seconds=1.0, share=share))
        while card.busy("one") or card.busy("other"):
            card.advance(math.inf)

    assert roomy.now == pytest.approx(1.0)
    assert full.now == pytest.approx(2.0)


def test_time_passes_to_an_arrival_without_losing_work() -> None:
    card = Card()
    card.start("one", Activity(seconds=1.0, share=1.0))

    assert card.advance(0.4) is None
    assert card.advance(math.inf) == "one"
    assert card.now == pytest.approx(1.0)


def test_a_busy_stream_takes_nothing_else() -> None:
    card = Card()
    card.start("one", Activity(seconds=1.0, share=1.0))

    with pytest.raises(ValueError, match="busy"):
        card.start("one", Activity(seconds=1.0, share=1.0))


def test_the_trace_is_the_same_every_time_and_half_of_each_family() -> None:
    jobs = trace()

    assert jobs == trace()
    assert len(jobs) == len({job.id for job in jobs}) == 500
    assert 225 <= sum(job.family is FAMILIES[0] for job in jobs) <= 275
    assert {job.images for job in jobs} == {1, 2, 3, 4}


@pytest.mark.parametrize("load", [0.5, 3.0])
def test_all_jobs_are_finished_and_none_before_the_card_could(load: float) -> None:
    jobs = trace(60)
    apart = statistics.fmean(seconds_alone(job, COSTS) for job in jobs) / load
    arrivals = arriving(jobs, apart)

    shared = Rig(COSTS, HOST, held=16, denoise_streams=2).run(arrivals)
    alone = one_at_a_time(arrivals, COSTS, HOST)

    assert len(shared.waits) == len(alone.waits) == 60
    for job, wait in zip(arrivals, shared.waits, strict=True):
        one_image = COSTS.step(job.family, job.width, job.height, 1, 77).seconds * job.steps
        assert wait > one_image


@pytest.mark.parametrize("host", [HOST, NO_HOST], ids=["all stages", "card only"])
def test_a_single_job_waits_for_its_own_work_and_no_longer_than_alone(host: Host) -> None:
    job = a_job(family=FAMILIES[1], arrived=5.0, width=1024, height=1024, images=2)
    own = seconds_alone(job, COSTS) + host.seconds_alone(job)

    (wait,) = Rig(COSTS, host, held=4).run([job]).waits

    assert 0.9 * own < wait <= own + 1e-9


def test_equal_small_pictures_gain_by_sharing() -> None:
    jobs = [a_job(str(number)) for number in range(32)]

    shared, alone = Rig(COSTS, NO_HOST, held=32).run(jobs), one_at_a_time(jobs, COSTS, NO_HOST)

    assert shared.mean_rows > 3
    assert alone.seconds / shared.seconds > 1.15


def test_jobs_one_at_a_time_are_each_acknowledged_before_the_next_is_asked_for() -> None:
    host = Host(threads=4, encode_seconds=1.0, encoded_bytes=100.0, uplink=50.0, exchange_seconds=3.0)
    jobs = [a_job(str(number), width=1000, height=1000, images=2) for number in range(2)]
    of_each = seconds_alone(jobs[0], COSTS) + 3.0 + 1.0 + 2 * 2.0 + 3.0

    alone = one_at_a_time(jobs, COSTS, host)

    assert alone.waits == pytest.approx((of_each, 2 * of_each))


def test_what_is_outside_the_card_overlaps_the_next_job() -> None:
    host = Host(exchange_seconds=30.0)
    jobs = [a_job(str(number)) for number in range(8)]

    shared = Rig(COSTS, host, held=8).run(jobs)

    assert 60.0 < shared.seconds < 60.0 + 8 * seconds_alone(jobs[0], COSTS) + 8 * host.upload(jobs[0]).seconds


def test_all_uploads_together_are_no_faster_than_the_line() -> None:
    host = Host(uplink=10_000.0)
    jobs = [a_job(str(number), images=2) for number in range(8)]

    shared = Rig(COSTS, host, held=8).run(jobs)

    assert shared.seconds > 16 * host.upload(jobs[0]).seconds


def test_a_job_keeps_its_place_until_it_is_acknowledged() -> None:
    jobs = [a_job(str(number)) for number in range(2)]

    shared = Rig(COSTS, HOST, held=1).run(jobs)

    first, second = shared.waits
    assert second - first >= seconds_alone(jobs[1], COSTS) + HOST.seconds_alone(jobs[1]) - 1e-9
