"""Makes one job's images, whatever it takes: routes it, replays it after a crash, fails over after a fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from trt_engines.backend import EngineBackend
from trt_engines.errors import EngineRefused
from trt_engines.model import Model
from trt_worker.check.picture import Finding, Verdict, inspect_picture
from trt_worker.errors import BadJob, BadSourceImage, DeviceLost, LateJob, UnservableJob
from trt_worker.job import JobSpec
from trt_worker.plan.route import Exclusion, Plan, route
from trt_worker.runtime.device_link import DeviceLink, JobFailed, MadeJob

CRASHES_PER_BACKEND = 2
"""Device processes a job may lose on one backend before the next backend gets it."""

FAULTS_UNTIL_QUARANTINE = 2
"""Faults of one engine, whatever the job, before nothing is sent to it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """One job made: its images, and how."""

    images: tuple[NDArray[np.uint8], ...]  # uint8 [height, width, 3] each
    plan: Plan
    made: MadeJob


class JobMaker:
    """Sends jobs to the devices and brings images back.

    Args:
        ladder: backends, best first; only asked whether they can run something, never loaded here.
        max_rows: images that share a step.
        fell_back: told the reason whenever a job does not run on the first backend, or with another sampler.
    """

    def __init__(
        self,
        links: Sequence[DeviceLink],
        ladder: Sequence[EngineBackend],
        *,
        max_rows: int,
        fell_back: Callable[[str], None],
    ) -> None:
        self._links = links
        self._ladder = ladder
        self._max_rows = max_rows
        self._fell_back = fell_back
        self._faults: Counter[tuple[str, str]] = Counter()

    @property
    def quarantined(self) -> Mapping[str, int]:
        """Engines that get no more jobs, as `backend engine`, with their faults."""
        return {
            f"{backend} {engine}": faults
            for (backend, engine), faults in self._faults.items()
            if faults >= FAULTS_UNTIL_QUARANTINE
        }

    async def make(self, job: JobSpec, model: Model, progress: Callable[[float], None]) -> Making:
        """Make all images of a job.

        A picture that is all black is made again once on the next backend; if that one gives black too, or there is
        none, black is what the job asked for.

        Raises: BadJob: the job cannot be run by anybody. LateJob: it can no longer be on time.
            EngineRefused: no backend is left. DeviceUnusable: no device process can be started.
        """
        excluded: list[Exclusion] = []
        crashes: Counter[str] = Counter()
        black: Making | None = None
        told = False
        while True:
            try:
                plan = self._route(job, model, excluded)
            except EngineRefused:
                if black is None:
                    raise
                return black
            logger.debug(
                "Job {}: backend {}, engine {}, bucket {}, reason: {}",
                job.id,
                plan.backend,
                plan.engine,
                plan.bucket.label,
                plan.reason,
            )
            if plan.stand_in and not told:
                told = True
                self._fell_back(plan.stand_in)
                logger.info("Job {}: {}", job.id, plan.stand_in)
            if plan.fallback:
                self._fell_back(plan.reason)
                logger.info("Job {} runs on {}: {}", job.id, plan.backend, plan.reason)
            try:
                made = await self._pick_link().make(job, plan, progress)
            except DeviceLost as lost:
                crashes[plan.backend] += 1
                logger.warning("Job {} is replayed: {}", job.id, lost)
                if crashes[plan.backend] >= CRASHES_PER_BACKEND:
                    excluded.append(Exclusion(backend=plan.backend, reason="lost its process with this job twice"))
                continue
            except JobFailed as failed:
                excluded.append(self._exclusion(job, plan, failed))
                continue
            making = Making(images=made.images, plan=plan, made=made)
            finding = next((found for found in self._findings(job, making) if not found.passed), None)
            if finding is None or (black is not None and finding.verdict is Verdict.BLACK):
                return making
            logger.warning(
                "Job {}: {} gave a {} picture: {}", job.id, plan.backend, finding.verdict.value, finding.reason
            )
            if finding.verdict is Verdict.BLACK:
                black = making
            excluded.append(Exclusion(backend=plan.backend, reason=f"gave a {finding.verdict.value} picture"))

    def _route(self, job: JobSpec, model: Model, excluded: Sequence[Exclusion]) -> Plan:
        """The plan of a job, passing over engines in quarantine."""
        barred = list(excluded)
        while True:
            plan = route(job, model, self._ladder, max_rows=self._max_rows, excluded=barred)
            faults = self._faults[plan.backend, plan.engine]
            if faults < FAULTS_UNTIL_QUARANTINE:
                return plan
            barred.append(
                Exclusion(backend=plan.backend, reason=f"{plan.engine} is in quarantine after {faults} faults")
            )

    def _pick_link(self) -> DeviceLink:
        return min(self._links, key=lambda link: link.jobs)

    def _exclusion(self, job: JobSpec, plan: Plan, failed: JobFailed) -> Exclusion:
        failure = failed.failure
        match failure.kind:
            case "bad_job":
                raise BadJob(f"job {job.id}: {failure.message}")
            case "bad_source":
                raise BadSourceImage(f"job {job.id}: {failure.message}")
            case "unservable":
                raise UnservableJob(f"job {job.id}: {failure.message}")
            case "late":
                raise LateJob(f"job {job.id}: {failure.message}")
        self._faults[plan.backend, plan.engine] += 1
        logger.error("Job {} failed on {} ({}): {}", job.id, plan.backend, failure.engine, failure.message)
        return Exclusion(backend=plan.backend, reason=f"failed: {failure.message}")

    def _findings(self, job: JobSpec, making: Making) -> Iterator[Finding]:
        return (inspect_picture(image, width=job.width, height=job.height) for image in making.images)
