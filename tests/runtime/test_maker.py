"""What the maker does about pictures that must not leave, with a scripted device link."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import numpy as np
import pytest

from trt_engines.errors import EngineRefused
from trt_engines.model import find_models
from trt_worker.errors import BadJob, BadSourceImage, DeviceLost, LateJob, UnservableJob
from trt_worker.job import ImageSeed, JobSpec
from trt_worker.plan.route import Plan
from trt_worker.runtime import frames
from trt_worker.runtime.device_link import DeviceLink, JobFailed, MadeJob, Pixels
from trt_worker.runtime.maker import JobMaker, Making

BLACK = np.zeros((64, 64, 3), np.uint8)
BRIGHT = np.full((64, 64, 3), 90, np.uint8)


class Scripted(DeviceLink):
    """A link that gives one scripted answer per backend and starts no process."""

    def __init__(self, answers: dict[str, Pixels | frames.Failed | DeviceLost], index: int = 1) -> None:
        configure = frames.Configure(
            index=index,
            backends=tuple(answers),
            threads=1,
            max_rows=4,
            memory=2**31,
            model_folders=(),
            log_directory=None,
            verbosity=0,
        )
        super().__init__(configure, silent_seconds=1.0)
        self.asked: list[str] = []
        self._answers = answers

    async def make(self, job: JobSpec, plan: Plan, progress: Callable[[float], None]) -> MadeJob:
        self.asked.append(plan.backend)
        answer = self._answers[plan.backend]
        if isinstance(answer, DeviceLost):
            raise answer
        if isinstance(answer, frames.Failed):
            raise JobFailed(answer)
        timing = frames.Made(id=job.id, started=0, denoised=1, decoded=1, engine_seconds=1, mean_rows=1)
        return MadeJob(images=(answer,), timing=timing)


def a_failure(kind: str) -> frames.Failed:
    return frames.Failed(id="job", kind=kind, backend="onnxruntime", engine="engine", message="because")


def make(*links: Scripted, sampler: str = "euler", fell_back: Callable[[str], None] = lambda _: None) -> Making:
    return make_with(JobMaker(links, max_rows=4, fell_back=fell_back), sampler)


def make_with(maker: JobMaker, sampler: str = "euler") -> Making:
    job = JobSpec(
        id="job",
        model="shapes-tiny",
        prompt="",
        width=64,
        height=64,
        steps=1,
        sampler=sampler,
        seeds=(ImageSeed(value=1),),
        received=0,
        due=9e9,
    )
    return anyio.run(lambda: maker.make(job, find_models()["shapes-tiny"], lambda _: None))


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
    lost = Scripted({"onnxruntime": DeviceLost("killed")})
    sound = Scripted({"onnxruntime": BRIGHT}, index=2)

    make(lost, sound)

    assert (lost.asked, sound.asked) == (["onnxruntime"], ["onnxruntime"])


def test_a_device_that_cannot_run_the_model_is_passed_over() -> None:
    unable = Scripted({})
    able = Scripted({"pytorch": BRIGHT}, index=2)

    assert make(unable, able).plan.backend == "pytorch"
