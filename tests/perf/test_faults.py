"""Jobs on devices that fail by script: all are answered, none with another's picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trt_engines.backends.faults import IN_CALL, Fault, FaultScript
from trt_engines.model import find_models
from trt_perf.faults import Undisturbed, a_job, run_with_faults, wrong_images
from trt_worker.job import ImageSeed

SEED = 257
"""Its script has every fault among the first 9 loads and 200 calls, and one hang, which takes seconds to be noticed."""

RATES = {
    Fault.FULL_AT_LOAD: 0.15,
    Fault.STALE: 0.15,
    Fault.FULL: 0.01,
    Fault.NOT_FINITE: 0.01,
    Fault.STICKY: 0.004,
    Fault.HANG: 0.004,
}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.mark.anyio
async def test_jobs_are_answered_once_and_with_their_own_pictures_whatever_happens_to_their_devices() -> None:
    report = await run_with_faults(60, SEED, RATES, jobs_per_kill=40)

    assert report.never_struck == ()
    assert report.refused == []
    assert (report.answered_once, report.wrong) == (60, 0)
    assert report.restarts >= report.strikes[Fault.STICKY] + report.strikes[Fault.HANG]


def test_another_s_picture_would_be_noticed() -> None:
    clean = Undisturbed(find_models()["shapes-tiny"])
    job = replace(a_job(0, SEED), seeds=(ImageSeed(value=1),))
    others = (
        replace(job, prompt="a purple circle"),
        replace(job, seeds=(ImageSeed(value=2),)),
        replace(job, steps=job.steps + 1),
        replace(job, guidance=job.guidance + 1),
    )
    pictures = clean.make(job)

    assert wrong_images(clean.make(job), pictures) == 0
    assert [wrong_images(clean.make(other), pictures) for other in others] == [1, 1, 1, 1]
    assert wrong_images([], pictures) == 1
    assert wrong_images([np.rot90(pictures[0])], pictures) == 1


def test_a_script_strikes_the_share_that_its_rates_say(tmp_path: Path) -> None:
    script = FaultScript(seed=1, rates={Fault.STICKY: 0.1, Fault.HANG: 0.3}, folder=str(tmp_path))

    fates = [script.fate(IN_CALL, number) for number in range(2000)]

    assert fates.count(Fault.STICKY) == pytest.approx(200, rel=0.2)
    assert fates.count(Fault.HANG) == pytest.approx(600, rel=0.2)
    assert fates.count(None) == pytest.approx(1200, rel=0.2)


def test_processes_that_share_a_script_share_its_numbers(tmp_path: Path) -> None:
    one, other = (FaultScript(seed=1, rates={}, folder=str(tmp_path)) for _ in range(2))

    assert [one.count("calls"), other.count("calls"), one.count("calls"), one.count(Fault.HANG)] == [0, 1, 2, 0]
    assert other.strikes() == {Fault.HANG: 1}
