"""What one job's work throws ends that job and no other, wherever on the device it is thrown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trt_engines.devices.errors import DeviceFault
from trt_worker import frames
from trt_worker.errors import DeviceLost
from trt_worker.job import ImageSeed

OUT_OF_RANGE = ImageSeed(value=2**64 + 5)
"""Its initial noise can be drawn; the place of its step noise on the device cannot hold the seed."""


def fail_once(error: BaseException, *, at: int = 0) -> Callable[[str], None]:
    calls = iter(range(1_000_000))

    def strike(label: str) -> None:
        if next(calls) == at:
            raise error

    return strike


def test_a_row_that_throws_in_a_shared_step_is_found_and_the_others_look_as_if_alone(a_loop: Any, a_run: Any) -> None:
    poison = a_run("poison", sampler="euler_ancestral", seeds=(OUT_OF_RANGE,), steps=4)
    others = [a_run(f"other {number}", prompt=f"{number} circles", sampler=sampler, steps=4)
              for number, sampler in enumerate(("euler", "dpmpp_2m", "euler_ancestral"))]  # fmt: skip
    alone, together = a_loop(max_rows=1), a_loop(max_rows=4)
    for run in others:
        alone.loop.take(run, b"")
        alone.finish()

    for run in (others[0], poison, *others[1:]):
        together.loop.take(run, b"")
    together.finish()

    assert [(failed.id, failed.kind) for failed in together.of(frames.Failed)] == [("poison", "unexpected")]
    assert {made.id for made in together.of(frames.Made)} == {run.job.id for run in others}
    for key, picture in alone.pictures.items():
        assert np.abs(picture.astype(int) - together.pictures[key]).max() <= 1


def test_a_step_that_throws_only_in_company_is_taken_alone_by_everybody(striking: Any, a_loop: Any, a_run: Any) -> None:
    backend = striking("denoiser", fail_once(ValueError("two are too many"), at=2))
    runs = [a_run(str(number), backend="spoilt", steps=4) for number in range(3)]
    collector = a_loop(backend)

    for run in runs:
        collector.loop.take(run, b"")
    collector.finish()

    assert not collector.of(frames.Failed)
    assert {made.id for made in collector.of(frames.Made)} == {"0", "1", "2"}
    assert len({picture.tobytes() for picture in collector.pictures.values()}) == 1


@pytest.mark.parametrize("network", ["text_encoder", "denoiser", "vae_decoder"])
@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), MemoryError(), RecursionError("deep")])
def test_an_unexpected_exception_ends_one_job(
    striking: Any, a_loop: Any, a_run: Any, network: str, error: Exception
) -> None:
    collector = a_loop(striking(network, fail_once(error)), max_rows=1)

    for job in ("struck", "next"):
        collector.loop.take(a_run(job, backend="spoilt", prompt=f"{job} of two", guidance=1.0), b"")
    collector.finish()
    collector.loop.take(a_run("last", backend="spoilt", prompt="struck of two", guidance=1.0), b"")
    collector.finish()

    made = {frame.id for frame in collector.of(frames.Made)}
    failed = {frame.id: frame.kind for frame in collector.of(frames.Failed)}
    assert made == {"next", "last"} or (network == "denoiser" and made == {"struck", "next", "last"})
    assert failed in ({"struck": "unexpected"}, {})


@pytest.mark.parametrize(
    "error", [DeviceFault("the device is gone"), DeviceLost("nobody listens"), KeyboardInterrupt()]
)
def test_what_ends_the_process_is_not_held_back(striking: Any, a_loop: Any, a_run: Any, error: BaseException) -> None:
    collector = a_loop(striking("denoiser", fail_once(error)))

    collector.loop.take(a_run(backend="spoilt"), b"")

    with pytest.raises(type(error)):
        collector.finish()


def test_a_job_whose_numbers_overflow_is_refused_as_its_own_fault(a_loop: Any, a_run: Any) -> None:
    collector = a_loop()

    collector.loop.take(a_run(guidance=1e38), b"")
    collector.finish()

    assert [failed.kind for failed in collector.of(frames.Failed)] == ["bad_job"]


def test_a_frame_that_is_too_large_to_be_sent_ends_its_job_and_no_other(a_loop: Any, a_run: Any) -> None:
    collector = a_loop()
    emit = collector.loop._emit

    def refuses_pixels_of_one(header: frames.FromDevice, body: Any) -> None:
        if isinstance(header, frames.Pixels) and header.id == "large":
            frames.pack(header, frames.MAX_BODY + 1)
        emit(header, body)

    collector.loop._emit = refuses_pixels_of_one
    for job in ("large", "small"):
        collector.loop.take(a_run(job), b"")
    collector.finish()

    assert [(failed.id, failed.kind) for failed in collector.of(frames.Failed)] == [("large", "unexpected")]
    assert [made.id for made in collector.of(frames.Made)] == ["small"]
