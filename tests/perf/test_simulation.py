"""The simulation: the worker's loop finishes every job, at the costs that are charged and at no others."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from trt_engines.architectures.prompting import Vocabulary
from trt_engines.architectures.text_encoders import CHUNK
from trt_engines.costs.hardware import hardware
from trt_engines.devices.operations import CopyOperation, Direction, KernelOperation, NetworkOperation
from trt_engines.vocabularies import byte_pairs
from trt_perf.simulation.agenda import Agenda, Lanes
from trt_perf.simulation.costs import CardCosts
from trt_perf.simulation.host import NO_HOST, Host
from trt_perf.simulation.loop import request
from trt_perf.simulation.run import CardAlone, Rig, SharedOutcome, one_at_a_time
from trt_perf.simulation.trace import FAMILIES, TOKENS, Job, arriving, trace
from trt_worker.condition.chunks import chunk
from trt_worker.condition.tokenizer import clip_tokenizer
from trt_worker.condition.weights import parse_weights

CARD = hardware("RTX 4090")
COSTS = CardCosts(CARD)
HOST = Host()
SD15, SDXL = FAMILIES


def a_job(name: str = "only", **changes: Any) -> Job:
    settings: dict[str, Any] = {"family": SD15, "width": 512, "height": 512, "steps": 20, "tokens": 77}
    return Job(**({"id": name, "arrived": 0.0, "images": 1} | settings | changes))


@pytest.fixture(scope="module")
def alone() -> CardAlone:
    return CardAlone(CARD, COSTS)


def shared(jobs: Any, host: Host, held: int = 32) -> SharedOutcome:
    return Rig(CARD, COSTS, host, held=held).run(jobs)


def a_step(family: str, rows: int, tokens: int = 77, side: int = 64) -> NetworkOperation:
    latent = rows, 4, side, side
    shapes = ("sample", latent), ("timestep", (rows,)), ("context", (rows, tokens, 8)), ("noise_pred", latent)
    return NetworkOperation(engine=f"{family}/denoiser", shapes=shapes, rows=rows)


def test_things_happen_in_the_order_of_time_also_those_that_others_make_due() -> None:
    agenda, happened = Agenda(), list[tuple[str, float]]()
    agenda.at(2.0, lambda now: happened.append(("second", now)))
    agenda.at(1.0, lambda now: agenda.at(1.5, lambda now: happened.append(("first", now))))
    agenda.at(5.0, lambda now: happened.append(("later", now)))

    agenda.handle(4.0)

    assert happened == [("first", 1.5), ("second", 2.0)]
    assert agenda.next == 5.0


def test_what_finds_no_lane_waits_for_the_first_that_is_free() -> None:
    agenda, ended = Agenda(), list[float]()
    lanes = Lanes(agenda, 2)

    for seconds in (3.0, 1.0, 1.0, 5.0):
        lanes.take(0.0, seconds, ended.append)
    lanes.take(10.0, 1.0, ended.append)
    agenda.handle(20.0)

    assert ended == [1.0, 2.0, 3.0, 7.0, 11.0]


def test_rows_of_a_call_cost_less_together_and_leave_less_of_the_card_idle() -> None:
    one, eight = a_step("sd15", 2), a_step("sd15", 16)

    assert COSTS.seconds(one) < COSTS.seconds(eight) < 8 * COSTS.seconds(one)
    assert COSTS.share(one) < COSTS.share(eight) < 1


def test_a_small_kernel_leaves_the_card_nearly_idle_and_a_copy_has_its_engine_to_itself() -> None:
    kernel = KernelOperation(kernel="any", read=1 << 16, written=1 << 16)
    copy = CopyOperation(direction=Direction.UPLOAD, size=1 << 16)

    assert COSTS.share(kernel) < 0.1
    assert COSTS.share(copy) == 1


def test_an_engine_that_the_cost_model_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing of flux/denoiser"):
        COSTS.seconds(a_step("flux", 2))


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_prompt_makes_as_many_chunks_as_the_job_has_tokens_for(tokens: int, family: Any) -> None:
    run = request(a_job("499", family=family, tokens=tokens), received=0.0)

    tokenizer = clip_tokenizer(*byte_pairs(Vocabulary.CLIP))
    chunks = chunk(parse_weights(run.job.prompt), tokenizer, size=CHUNK, pad=tokenizer.end, most=32)

    assert len(chunks.ids) * CHUNK == tokens


def test_the_trace_is_the_same_every_time_and_half_of_each_family() -> None:
    jobs = trace()

    assert jobs == trace()
    assert len(jobs) == len({job.id for job in jobs}) == 500
    assert 225 <= sum(job.family is FAMILIES[0] for job in jobs) <= 275
    assert {job.images for job in jobs} == {1, 2, 3, 4}


@pytest.mark.parametrize("load", [0.5, 3.0])
def test_all_jobs_are_finished_and_none_before_the_card_could(load: float, alone: CardAlone) -> None:
    jobs = trace(30)
    apart = statistics.fmean(alone.of(job).seconds for job in jobs) / load
    arrivals = arriving(jobs, apart)

    together, one_by_one = shared(arrivals, HOST, held=16), one_at_a_time(arrivals, alone, HOST)

    assert len(together.waits) == len(one_by_one.waits) == 30
    for job, wait in zip(arrivals, together.waits, strict=True):
        side = job.width // 8, job.height // 8
        latent = 2, 4, *side
        step = NetworkOperation(
            engine=f"{job.family.name}/denoiser",
            shapes=(("sample", latent), ("context", (2, 77, 8))),
            rows=2,
        )
        assert wait > COSTS.seconds(step) * job.steps


@pytest.mark.parametrize("host", [HOST, NO_HOST], ids=["all stages", "card only"])
def test_a_single_job_waits_for_its_own_work_and_as_long_as_alone(host: Host, alone: CardAlone) -> None:
    job = a_job(family=SDXL, arrived=5.0, width=1024, height=1024, images=2)
    own = alone.of(job).seconds + host.seconds_alone(job)

    (wait,) = shared([job], host, held=4).waits

    assert wait == pytest.approx(own, rel=0.01)


def test_a_job_alone_takes_its_calls_in_sequence_and_a_little_for_what_is_between_them(alone: CardAlone) -> None:
    calls = 20 * COSTS.seconds(a_step("sd15", 2))

    taken = alone.of(a_job())

    assert calls < taken.seconds < 1.15 * calls
    assert 0 < taken.busy < taken.seconds


def test_equal_small_pictures_gain_by_sharing(alone: CardAlone) -> None:
    jobs = [a_job(str(number)) for number in range(32)]

    together, one_by_one = shared(jobs, NO_HOST), one_at_a_time(jobs, alone, NO_HOST)

    assert together.mean_rows > 3
    assert one_by_one.seconds / together.seconds > 1.15


def test_jobs_one_at_a_time_are_each_acknowledged_before_the_next_is_asked_for(alone: CardAlone) -> None:
    host = Host(threads=4, encode_seconds=1.0, encoded_bytes=100.0, uplink=50.0, exchange_seconds=3.0)
    jobs = [a_job(str(number), width=1024, height=1024, images=2) for number in range(2)]
    megapixels = 1.024**2
    of_each = alone.of(jobs[0]).seconds + 3.0 + megapixels * (1.0 + 2 * 2.0) + 3.0

    one_by_one = one_at_a_time(jobs, alone, host)

    assert one_by_one.waits == pytest.approx((of_each, 2 * of_each))


def test_what_is_outside_the_card_overlaps_the_next_job(alone: CardAlone) -> None:
    host = Host(exchange_seconds=30.0)
    jobs = [a_job(str(number)) for number in range(8)]

    together = shared(jobs, host, held=8)

    assert 60.0 < together.seconds < 60.0 + 8 * alone.of(jobs[0]).seconds + 8 * host.upload_seconds(jobs[0])


def test_all_uploads_together_are_no_faster_than_the_line() -> None:
    host = Host(uplink=10_000.0)
    jobs = [a_job(str(number), images=2) for number in range(8)]

    together = shared(jobs, host)

    assert together.seconds > 16 * host.upload_seconds(jobs[0])


def test_a_job_keeps_its_place_until_it_is_acknowledged(alone: CardAlone) -> None:
    jobs = [a_job(str(number)) for number in range(2)]

    first, second = shared(jobs, HOST, held=1).waits

    assert second - first == pytest.approx(alone.of(jobs[1]).seconds + HOST.seconds_alone(jobs[1]), rel=0.01)


def test_the_same_trace_gives_the_same_outcome() -> None:
    jobs = trace(12)

    assert shared(jobs, HOST) == shared(jobs, HOST)
