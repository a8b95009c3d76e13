"""What the maker does about pictures that must not leave, with a scripted device link."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import replace
from itertools import count

import anyio
import anyio.lowlevel
import numpy as np
import pytest

from trt_engines.errors import EngineRefused
from trt_engines.model import Model, find_models
from trt_worker import frames
from trt_worker.errors import BadJob, BadSourceImage, DeviceAway, DeviceLost, LateJob, UnservableJob
from trt_worker.job import ImageSeed, JobSpec
from trt_worker.plan.blame import RECENT_SECONDS, Loss, Passenger
from trt_worker.plan.quarantine import PROBE_WAITS
from trt_worker.plan.route import Plan
from trt_worker.supervisor.device_link import DeviceLink, JobFailed, MadeJob, Pixels, ProcessLost
from trt_worker.supervisor.health import FAILURES_IN_A_ROW
from trt_worker.supervisor.maker import JobMaker, Making

BLACK = np.zeros((64, 64, 3), np.uint8)
BRIGHT = np.full((64, 64, 3), 90, np.uint8)
ENGINE = "shapes-tiny/denoiser/64x64r8t77"
MOMENTS = count(1)  # of losses: no two happen at once


Answer = Pixels | frames.Failed | DeviceLost


class Scripted(DeviceLink):
    """A link that gives one scripted answer per backend, or one after the other, and starts no process.

    Args: probes: the same for probes; a backend without any makes them.
    """

    def __init__(
        self,
        answers: dict[str, Answer | list[Answer]],
        index: int = 1,
        probes: dict[str, Answer | list[Answer]] | None = None,
    ) -> None:
        configure = frames.Configure(
            index=index,
            backends=tuple(answers),
            threads=1,
            max_rows=4,
            memory=2**31,
            machine_memory=2**31,
            models=tuple(find_models().values()),
            log_directory=None,
            verbosity=0,
        )
        super().__init__(configure, silent_seconds=1.0)
        self.asked: list[str] = []
        self.probed: list[tuple[str, int]] = []  # backends and widths
        self._answers = answers
        self._probes = probes or {}

    async def make(self, job: JobSpec, plan: Plan, progress: Callable[[float], None]) -> MadeJob:
        if job.id == "probe":
            self.probed.append((plan.backend, job.width))
            answers = self._probes.get(plan.backend, np.full((job.height, job.width, 3), 90, np.uint8))
        else:
            self.asked.append(plan.backend)
            answers = self._answers[plan.backend]
        answer = answers.pop(0) if isinstance(answers, list) else answers
        if isinstance(answer, DeviceLost):
            raise answer
        if isinstance(answer, frames.Failed):
            raise JobFailed(answer)
        timing = frames.Made(id=job.id, started=0, denoised=1, decoded=1, engine_seconds=1, mean_rows=1)
        return MadeJob(images=(answer,), timing=timing)


def a_failure(kind: str) -> frames.Failed:
    return frames.Failed(id="job", kind=kind, backend="onnxruntime", engine="engine", message="because")


def a_loss(*jobs: str, device: int = 1, backend: str = "onnxruntime", at: float | None = None) -> ProcessLost:
    """A process that was lost with these jobs aboard."""
    aboard = frozenset(Passenger(job=job, backend=backend, engine=ENGINE) for job in jobs)
    return ProcessLost("killed", Loss(device=device, at=next(MOMENTS) if at is None else at, aboard=aboard))


def make(*links: Scripted, sampler: str = "euler", fell_back: Callable[[str], None] = lambda _: None) -> Making:
    return make_with(JobMaker(links, max_rows=4, fell_back=fell_back), sampler)


def make_with(maker: JobMaker, sampler: str = "euler", *, job_id: str = "job", due: float = 9e9) -> Making:
    job = a_job(job_id, sampler, due)
    return anyio.run(lambda: maker.make(job, find_models()["shapes-tiny"], lambda _: None))


def a_job(job_id: str, sampler: str = "euler", due: float = 9e9) -> JobSpec:
    return JobSpec(
        id=job_id,
        model="shapes-tiny",
        prompt="",
        width=64,
        height=64,
        steps=1,
        sampler=sampler,
        seeds=(ImageSeed(value=1),),
        received=0,
        due=due,
    )


def test_a_black_picture_is_made_again_on_the_next_backend() -> None:
    link = Scripted({"onnxruntime": BLACK, "pytorch": BRIGHT})

    making = make(link)

    assert link.asked == ["onnxruntime", "pytorch"]
    assert making.images[0].max() == 90


def test_a_picture_that_is_black_twice_is_what_was_asked_for() -> None:
    link = Scripted({"onnxruntime": BLACK, "pytorch": BLACK})

    assert make(link).plan.backend == "pytorch"
    assert link.asked == ["onnxruntime", "pytorch"]


def test_a_black_picture_leaves_when_there_is_no_other_backend_to_ask() -> None:
    link = Scripted({"onnxruntime": BLACK})

    assert not make(link).images[0].any()


def test_a_stand_in_for_a_sampler_is_counted_once_however_often_the_job_is_made() -> None:
    told: list[str] = []

    make(Scripted({"onnxruntime": BLACK, "pytorch": BRIGHT}), sampler="uni_pc", fell_back=told.append)

    assert [reason for reason in told if "uni_pc is run as dpmpp_2m" in reason] == told[:1]


def test_a_picture_of_the_wrong_size_never_leaves() -> None:
    link = Scripted({"onnxruntime": BRIGHT[:32], "pytorch": BRIGHT[:32]})

    with pytest.raises(EngineRefused, match="broken"):
        make(link)


@pytest.mark.parametrize(
    ("kind", "error"),
    [("bad_job", BadJob), ("bad_source", BadSourceImage), ("unservable", UnservableJob), ("late", LateJob)],
)
def test_what_no_backend_can_mend_is_not_tried_on_the_next(kind: str, error: type[Exception]) -> None:
    link = Scripted({"onnxruntime": a_failure(kind), "pytorch": BRIGHT})

    with pytest.raises(error, match="because"):
        make(link)

    assert link.asked == ["onnxruntime"]


def test_after_a_fault_the_same_backend_of_another_device_is_asked() -> None:
    faulty = Scripted({"onnxruntime": a_failure("fault"), "pytorch": BRIGHT})
    sound = Scripted({"onnxruntime": BRIGHT, "pytorch": BRIGHT}, index=2)

    making = make(faulty, sound)

    assert (faulty.asked, sound.asked) == (["onnxruntime"], ["onnxruntime"])
    assert not making.plan.fallback


def test_a_backend_that_a_job_does_not_suit_has_no_fault_and_the_next_one_is_asked() -> None:
    link = Scripted({"onnxruntime": a_failure("unsuited"), "pytorch": BRIGHT})
    maker = JobMaker([link], max_rows=4, fell_back=lambda _: None, faults_until_quarantine=1)

    making = make_with(maker)

    assert link.asked == ["onnxruntime", "pytorch"]
    assert "because" in making.plan.reason
    assert not maker.quarantined


def test_a_job_that_took_its_device_down_is_replayed_on_another() -> None:
    lost = Scripted({"onnxruntime": a_loss("job")})
    sound = Scripted({"onnxruntime": BRIGHT}, index=2)

    make(lost, sound)

    assert (lost.asked, sound.asked) == (["onnxruntime"], ["onnxruntime"])


def test_a_device_that_cannot_run_the_model_is_passed_over() -> None:
    unable = Scripted({})
    able = Scripted({"pytorch": BRIGHT}, index=2)

    assert make(unable, able).plan.backend == "pytorch"


def a_maker(*links: Scripted, **settings: int) -> JobMaker:
    """A maker whose clock stands still, so that no loss of a test is ever forgotten."""
    return JobMaker(links, max_rows=4, fell_back=lambda _: None, clock=lambda: 0.0, **settings)


def test_a_job_that_ends_its_process_twice_goes_to_the_next_backend() -> None:
    link = Scripted({"onnxruntime": [a_loss("job"), a_loss("job")], "pytorch": BRIGHT})

    making = make_with(a_maker(link))

    assert link.asked == ["onnxruntime", "onnxruntime", "pytorch"]
    assert making.plan.reason == "onnxruntime: lost its process with this job 2 times"


def test_a_job_whose_device_loses_processes_without_it_too_is_replayed_and_not_refused() -> None:
    others = [a_loss("other"), BRIGHT]
    link = Scripted({"onnxruntime": [*others, a_loss("job"), a_loss("job"), a_loss("job"), BRIGHT]})
    maker = a_maker(link)
    make_with(maker, job_id="other")

    making = make_with(maker)

    assert making.plan.backend == "onnxruntime"
    assert len(link.asked) == 6


def test_a_job_is_not_replayed_for_ever_whatever_its_device_does_without_it() -> None:
    link = Scripted({"onnxruntime": [a_loss("other"), BRIGHT, *(a_loss("job") for _ in range(4))]})
    maker = a_maker(link)
    make_with(maker, job_id="other")

    with pytest.raises(EngineRefused, match="lost its process with this job 4 times"):
        make_with(maker)


class Poisoned(Scripted):
    """A device that is lost whenever the job `poison` is aboard. Its first two processes begin once they have two jobs,
    later ones give others the time to come aboard, too."""

    def __init__(self) -> None:
        super().__init__({"onnxruntime": BRIGHT})
        self.lost: list[frozenset[str]] = []
        self._aboard: set[str] = set()
        self._begun = anyio.Event()

    async def make(self, job: JobSpec, plan: Plan, progress: Callable[[float], None]) -> MadeJob:
        self._aboard.add(job.id)
        begun, process = self._begun, len(self.lost)
        if process >= 2:
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
        elif len(self._aboard) == 2:
            self._begun.set()
        else:
            await begun.wait()
        aboard = frozenset(self._aboard) if process == len(self.lost) else self.lost[process]
        if "poison" not in aboard:
            self._aboard.clear()
            return await super().make(job, plan, progress)
        if process == len(self.lost):
            self.lost.append(aboard)
            self._aboard.clear()
            self._begun = anyio.Event()
        raise a_loss(*aboard, at=process)


def test_jobs_that_were_lost_together_every_time_are_replayed_apart_and_only_the_culprit_is_refused() -> None:
    link, ended = Poisoned(), dict[str, str]()
    maker = a_maker(link)

    async def one(job_id: str) -> None:
        try:
            await maker.make(a_job(job_id), find_models()["shapes-tiny"], lambda _: None)
            ended[job_id] = "made"
        except EngineRefused as refused:
            ended[job_id] = str(refused)

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(one, "poison")
            group.start_soon(one, "innocent")

    anyio.run(both)

    assert link.lost == [frozenset({"poison", "innocent"})] * 2 + [frozenset({"poison"})]
    assert ended["innocent"] == "made"
    assert "lost its process with this job 3 times" in ended["poison"]


def test_an_engine_that_loses_its_process_with_different_jobs_is_avoided_while_there_is_another() -> None:
    link = Scripted({"onnxruntime": [a_loss("first"), BRIGHT, a_loss("second"), BRIGHT], "pytorch": BRIGHT})
    maker = a_maker(link)
    make_with(maker, job_id="first")

    second = make_with(maker, job_id="second")
    third = make_with(maker, job_id="third")

    assert second.plan.backend == third.plan.backend == "pytorch"
    assert third.plan.reason == (
        f"onnxruntime: {ENGINE} is avoided after it lost its process 2 times, with different jobs"
    )
    assert not maker.quarantined


def test_an_engine_that_loses_its_process_is_still_used_where_there_is_no_other() -> None:
    link = Scripted({"onnxruntime": [a_loss("first"), BRIGHT, a_loss("second"), BRIGHT]})
    maker = a_maker(link)
    make_with(maker, job_id="first")

    assert not make_with(maker, job_id="second").plan.fallback


def test_an_engine_that_was_avoided_is_tried_again_after_a_while() -> None:
    link = Scripted({"onnxruntime": [a_loss("first", at=0), BRIGHT, a_loss("second", at=1), BRIGHT], "pytorch": BRIGHT})
    now = 0.0
    maker = JobMaker([link], max_rows=4, fell_back=lambda _: None, clock=lambda: now)
    for job in ("first", "second"):
        make_with(maker, job_id=job)

    now = RECENT_SECONDS + 1

    assert make_with(maker, job_id="third").plan.reason == "first choice"


def test_a_device_that_went_before_it_had_the_job_costs_the_job_nothing() -> None:
    link = Scripted({"onnxruntime": [*(DeviceAway("starting again") for _ in range(9)), BRIGHT]})

    assert not make(link).plan.fallback


def test_a_job_that_is_overdue_is_not_replayed_any_more() -> None:
    now = iter([0.0, *([11.0] * 9)])
    link = Scripted({"onnxruntime": [a_loss("job"), BRIGHT]})
    maker = JobMaker([link], max_rows=4, fell_back=lambda _: None, clock=lambda: next(now))

    with pytest.raises(LateJob, match=r"was due 1\.0 s ago; it failed 1 time"):
        make_with(maker, due=10.0)


NAN = a_failure("not_finite")


def test_values_that_are_not_finite_on_a_second_backend_too_are_the_jobs_doing_and_blame_no_engine() -> None:
    link = Scripted({"onnxruntime": NAN, "pytorch": NAN})
    maker = a_maker(link)

    for job in ("first", "second", "third"):
        with pytest.raises(BadJob, match="the job's doing"):
            make_with(maker, job_id=job)

    assert link.asked == ["onnxruntime", "pytorch"] * 3
    assert not maker.quarantined
    assert not maker.health.withdrawn


def test_the_only_engine_is_called_again_before_values_that_are_not_finite_are_the_jobs_doing() -> None:
    link = Scripted({"onnxruntime": NAN})

    with pytest.raises(BadJob, match="the job's doing"):
        make_with(a_maker(link))

    assert link.asked == ["onnxruntime", "onnxruntime"]


def test_values_that_are_finite_at_the_second_call_were_not_the_jobs_doing() -> None:
    link = Scripted({"onnxruntime": [NAN, BRIGHT]})

    assert make_with(a_maker(link)).plan.backend == "onnxruntime"


def test_an_engine_whose_values_are_not_finite_with_a_job_of_ours_either_is_to_blame_and_the_job_is_not() -> None:
    link = Scripted({"onnxruntime": NAN, "pytorch": NAN}, probes={"onnxruntime": NAN, "pytorch": NAN})
    maker = a_maker(link)

    with pytest.raises(EngineRefused):
        make_with(maker)

    assert list(maker.quarantined) == ["1 onnxruntime shapes-tiny", "1 pytorch shapes-tiny"]
    assert maker.health.withdrawn == {"shapes-tiny"}


def test_an_engine_that_gives_no_numbers_where_another_does_is_probed_before_it_is_put_aside() -> None:
    link = Scripted({"onnxruntime": NAN, "pytorch": BRIGHT})
    maker = a_maker(link)
    for job in ("first", "second", "third"):
        assert make_with(maker, job_id=job).plan.backend == "pytorch"
    assert not maker.quarantined

    anyio.run(maker.health.probe_due)

    assert link.probed == [("onnxruntime", 128), ("onnxruntime", 64)]  # the model's own size, and the engine's
    assert not maker.quarantined


def test_an_engine_that_fails_with_jobs_that_others_make_is_put_aside() -> None:
    link = Scripted({"onnxruntime": a_failure("fault"), "pytorch": BRIGHT})
    maker = a_maker(link)
    for job in ("first", "second", "third"):
        make_with(maker, job_id=job)

    assert link.asked == ["onnxruntime", "pytorch"] * 2 + ["pytorch"]
    assert maker.quarantined == {f"1 onnxruntime {ENGINE}": "because"}


def test_a_job_that_fails_everywhere_puts_nothing_aside_that_makes_a_job_of_ours() -> None:
    fault = a_failure("fault")
    link = Scripted({"onnxruntime": [fault, fault, BRIGHT, fault], "pytorch": fault})
    maker = a_maker(link)

    for job in ("first", "second", "made", "third"):
        with nullcontext() if job == "made" else pytest.raises(EngineRefused):
            make_with(maker, job_id=job)

    assert not maker.quarantined


def test_a_model_whose_jobs_fail_everywhere_several_times_in_a_row_is_withdrawn_whatever_probes_say() -> None:
    link = Scripted({"onnxruntime": a_failure("fault"), "pytorch": a_failure("fault")})
    now = 0.0
    maker = JobMaker([link], max_rows=4, fell_back=lambda _: None, clock=lambda: now)
    waits = []
    for _ in range(2):
        for job in range(FAILURES_IN_A_ROW):
            assert not maker.health.withdrawn
            with pytest.raises(EngineRefused):
                make_with(maker, job_id=str(job))
        assert maker.health.withdrawn == {"shapes-tiny"}

        (due,) = {record.probe_at for record in maker.health.barred.values()}
        assert due is not None
        waits.append(due - now)
        now = due
        anyio.run(maker.health.probe_due)

    assert waits == list(PROBE_WAITS[:2])


def test_a_model_that_a_device_was_not_told_of_is_not_offered_and_the_job_is_not_failed() -> None:
    class Forgetful(Scripted):
        told: tuple[str, ...] = ()

        async def hand_over(self, models: Collection[Model], *, anew: bool = False) -> None:
            assert anew
            self.told = tuple(model.name for model in models)

    link = Forgetful({"onnxruntime": a_failure("not_at_hand"), "pytorch": BRIGHT})
    maker = a_maker(link)

    with pytest.raises(EngineRefused):
        make_with(maker)

    assert link.asked == ["onnxruntime"]  # the whole device is passed over
    assert maker.health.withdrawn == {"shapes-tiny"}
    assert link.told == ("shapes-tiny",)


def test_a_source_encoder_that_fails_keeps_no_job_without_a_source_from_being_made() -> None:
    class NoSource(Scripted):
        async def make(self, job: JobSpec, plan: Plan, progress: Callable[[float], None]) -> MadeJob:
            if job.source is not None:
                raise JobFailed(a_failure("fault"))
            return await super().make(job, plan, progress)

    maker = a_maker(NoSource({"onnxruntime": BRIGHT}))
    with_source = replace(a_job("job"), source=b"picture")

    with pytest.raises(EngineRefused):
        anyio.run(lambda: maker.make(with_source, find_models()["shapes-tiny"], lambda _: None))

    assert list(maker.quarantined) == [f"1 onnxruntime {ENGINE} with a source image"]
    assert make_with(maker).plan.backend == "onnxruntime"
    assert not maker.health.withdrawn


def test_a_job_that_ends_its_processes_puts_no_engine_aside_that_makes_a_job_of_ours() -> None:
    link = Scripted({"onnxruntime": [a_loss("job") for _ in range(2)]})
    maker = a_maker(link)

    with pytest.raises(EngineRefused):
        make_with(maker)

    assert link.probed == [("onnxruntime", 64)]
    assert not maker.quarantined
