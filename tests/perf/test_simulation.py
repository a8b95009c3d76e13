"""The simulation: time is shared as it says, every job is finished, and nothing is faster than the card."""

from __future__ import annotations

import math
import statistics

import pytest

from trt_engines.costs.hardware import hardware
from trt_perf.simulation.card import Activity, Card, CardCosts
from trt_perf.simulation.run import Rig, one_at_a_time, seconds_alone
from trt_perf.simulation.trace import FAMILIES, Job, arriving, trace

COSTS = CardCosts(hardware("RTX 4090"))


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

    shared = Rig(COSTS, held=16, denoise_streams=2).run(arrivals)
    alone = one_at_a_time(arrivals, COSTS)

    assert len(shared.waits) == len(alone.waits) == 60
    for job, wait in zip(arrivals, shared.waits, strict=True):
        one_image = COSTS.step(job.family, job.width, job.height, 1, 77).seconds * job.steps
        assert wait > one_image


def test_a_single_job_waits_for_its_own_work_and_no_longer_than_alone() -> None:
    job = Job(id="only", family=FAMILIES[1], arrived=5.0, width=1024, height=1024, steps=20, images=2, tokens=77)

    (wait,) = Rig(COSTS, held=4).run([job]).waits

    assert 0.9 * seconds_alone(job, COSTS) < wait <= seconds_alone(job, COSTS) + 1e-9


def test_equal_small_pictures_gain_by_sharing() -> None:
    jobs = [
        Job(id=str(number), family=FAMILIES[0], arrived=0.0, width=512, height=512, steps=20, images=1, tokens=77)
        for number in range(32)
    ]

    shared, alone = Rig(COSTS, held=32).run(jobs), one_at_a_time(jobs, COSTS)

    assert shared.mean_rows > 3
    assert alone.seconds / shared.seconds > 1.15
