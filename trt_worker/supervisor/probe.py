"""A small job of our own, which tells what a failure of somebody else's job does not: whether the engine is sound."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from trt_engines.backend import EngineBackend
from trt_engines.errors import EngineRefused
from trt_engines.model import Model
from trt_worker.check.picture import Verdict, inspect_picture
from trt_worker.errors import DeviceAway, DeviceUnusable
from trt_worker.job import ImageSeed, JobSpec
from trt_worker.plan.route import Plan, route
from trt_worker.supervisor.device_link import JobFailed, MadeJob, ProcessLost

PROBE_SECONDS = 600.0
"""A probe that waits longer for its turn says nothing."""

_SAYS_NOTHING = frozenset({"late", "unsuited"})


class Inconclusive(Exception):
    """A probe did not come to its end, and speaks neither for nor against the engine."""


class ProbedDevice(Protocol):
    """What a probe needs of a device."""

    @property
    def ladder(self) -> tuple[EngineBackend, ...]: ...

    async def make(self, job: JobSpec, plan: Plan, progress: Callable[[float], None]) -> MadeJob: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a probe draws."""

    model: Model
    size: tuple[int, int]  # width and height in pixels
    source: bool = False  # whether it starts from a source image


async def probe(device: ProbedDevice, backend: str, trial: Trial, *, max_rows: int, now: float) -> str:
    """Draw one picture in one step, with guidance, so that all networks that such a job needs are used once.

    Args:
        max_rows: as for any job, so that the engine is the same one.
        now: time.monotonic() seconds.
    Returns: why the picture was not made; empty: it was.
    Raises: Inconclusive.
    """
    model, (width, height) = trial.model, trial.size
    job = JobSpec(
        id="probe",
        model=model.name,
        prompt="a red circle",
        width=width,
        height=height,
        source=_a_picture(width, height) if trial.source else None,
        steps=1,
        guidance=2.0,
        seeds=(ImageSeed(value=1),),
        received=now,
        due=now + PROBE_SECONDS,
    )
    try:
        plan = route(job, model, [one for one in device.ladder if one.name == backend], max_rows=max_rows)
        made = await device.make(job, plan, lambda _: None)
    except EngineRefused as refused:
        return str(refused)
    except ProcessLost as lost:
        return str(lost)
    except (DeviceAway, DeviceUnusable) as away:
        raise Inconclusive(str(away)) from away
    except JobFailed as failed:
        if failed.failure.kind in _SAYS_NOTHING:
            raise Inconclusive(failed.failure.message) from failed
        return failed.failure.message
    finding = inspect_picture(made.images[0], width=job.width, height=job.height)
    return "" if finding.passed or finding.verdict is Verdict.BLACK else finding.reason


def _a_picture(width: int, height: int) -> bytes:
    """An encoded source image."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()
