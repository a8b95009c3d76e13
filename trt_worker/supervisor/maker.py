"""Makes one job's images, whatever it takes: routes it, replays it after a crash, fails over after a fault."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import monotonic

import anyio
import numpy as np
from loguru import logger
from numpy.typing import NDArray

from trt_engines.errors import EngineRefused
from trt_engines.model import Model
from trt_worker import frames
from trt_worker.check.picture import Finding, Verdict, inspect_picture
from trt_worker.concurrency import Clock
from trt_worker.errors import BadJob, BadSourceImage, DeviceAway, DeviceUnusable, LateJob, UnservableJob
from trt_worker.job import JobSpec
from trt_worker.plan.blame import Culprit, Loss, accuse, losses_of, recent, suspected_engines
from trt_worker.plan.placement import place
from trt_worker.plan.quarantine import Suspect
from trt_worker.plan.route import Exclusion, Plan, route
from trt_worker.supervisor.device_link import DeviceLink, JobFailed, MadeJob, ProcessLost
from trt_worker.supervisor.health import Health
from trt_worker.supervisor.probe import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """One job made: its images, and how."""

    images: tuple[NDArray[np.uint8], ...]  # uint8 [height, width, 3] each
    plan: Plan
    made: MadeJob


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """What a job failed with, and where."""

    suspect: Suspect
    trial: Trial
    reason: str
    finite: bool  # False: values came that are no numbers, be it the engine's doing or the job's
    at: float  # seconds on the maker's clock


class JobMaker:
    """Sends jobs to the devices and brings images back.

    Args:
        links: the rig's devices, each with a ladder of its own.
        max_rows: images that share a step.
        fell_back: told the reason whenever a job does not run on the first backend, or with another sampler.
        crashes_per_backend: device processes a job may lose on one backend before the next backend gets it, unless
            something else was their end.
        faults_until_quarantine: faults of one engine that no job explains before nothing but probes is sent to it; and
            as many lost processes that no single job explains, before it gets only what no other engine can run.
        offer_changed: called when other models can be served than before.
        damage: see `Health`.
        clock: seconds, as `due` of jobs counts.
    """

    def __init__(
        self,
        links: Sequence[DeviceLink],
        *,
        max_rows: int,
        fell_back: Callable[[str], None],
        crashes_per_backend: int = 2,
        faults_until_quarantine: int = 2,
        offer_changed: Callable[[], None] = lambda: None,
        damage: Callable[[Model], str] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._links = links
        self._max_rows = max_rows
        self._fell_back = fell_back
        self._crashes_per_backend = crashes_per_backend
        self._faults_until_quarantine = faults_until_quarantine
        self._clock = clock
        self.health = Health(
            links,
            max_rows=max_rows,
            limit=faults_until_quarantine,
            changed=offer_changed,
            damage=damage,
            clock=Clock(now=clock),
        )
        self._losses: tuple[Loss, ...] = ()
        self._trial = anyio.Lock()

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Engines, and models as a whole, that get nothing but probes, as `device backend engine`; and why."""
        return {str(suspect): record.reason for suspect, record in self.health.barred.items()}

    async def make(self, job: JobSpec, model: Model, progress: Callable[[float], None]) -> Making:
        """Make all images of a job.

        A picture that is all black is made again once on the next backend; if that one gives black too, or there is
        none, black is what the job asked for.

        A job that fails everywhere is told from engines that fail: they are probed with a small job of ours. Values
        that are not finite are the job's doing when they follow it to a second engine, or to a second call of the only
        one, and an engine that gave them makes the probe.

        A job that has lost its process more than once in the same company is replayed with none of that company beside
        it: then it is seen whose doing it was.

        Raises: BadJob: the job cannot be run by anybody. LateJob: it can no longer be on time.
            EngineRefused: no backend is left. DeviceUnusable: no device process can be started in the time it has.
        """
        excluded: list[Exclusion] = []
        failures: Counter[int] = Counter()
        culprit = Culprit.UNKNOWN
        black: Making | None = None
        told: set[str] = set()
        failed: list[_Failure] = []
        called_again = False
        while True:
            if (late := self._clock() - job.due) > 0:
                raise LateJob(
                    f"job {job.id}: was due {late:.1f} s ago; it failed {failures.total()} time(s) until then"
                )
            async with self._trial if culprit is Culprit.ONE_OF_SEVERAL else nullcontext():
                try:
                    link, plan = self._place(job, model, excluded, failures)
                except EngineRefused:
                    if black is not None:
                        return black
                    if len(failed) == 1 and not failed[0].finite and not called_again:
                        called_again = True  # there is no second engine: a second call has to tell
                        excluded = [one for one in excluded if not _is_of(one, failed[0].suspect)]
                        continue
                    await self._judge(job, failed)
                    raise
                self._tell(job, link, plan, told)
                try:
                    made = await link.make(job, plan, progress)
                except (DeviceUnusable, DeviceAway):
                    continue  # it is passed over from now on, or while it is away
                except ProcessLost as lost:
                    failures[link.index] += 1
                    culprit = self._accuse(job, plan, lost)
                    if culprit is Culprit.JOB:
                        failed.append(self._failure(job, model, link, plan, str(lost)))
                        times = len(losses_of(job.id, plan.backend, self._losses))
                        reason = f"lost its process with this job {times} times"
                        excluded.append(Exclusion(backend=plan.backend, reason=reason))
                    continue
                except JobFailed as refusal:
                    failures[link.index] += 1
                    failure = refusal.failure
                    if failure.kind == "not_at_hand":
                        self.health.withhold(model, f"device {link.index} does not know it", link.index)
                        await link.hand_over([model], anew=True)
                    excluded.append(self._exclusion(job, link, plan, failure))
                    if failure.kind in {"fault", "not_finite"}:
                        finite = failure.kind != "not_finite"
                        failed.append(self._failure(job, model, link, plan, failure.message, finite=finite))
                    continue
            self._worked(link, plan, job, failed)
            making = Making(images=made.images, plan=plan, made=made)
            finding = await anyio.to_thread.run_sync(_first_flaw, job, making)
            if finding is None or (black is not None and finding.verdict is Verdict.BLACK):
                return making
            logger.warning(
                "Job {}: {} gave a {} picture: {}", job.id, plan.backend, finding.verdict.value, finding.reason
            )
            if finding.verdict is Verdict.BLACK:
                black = making
            excluded.append(Exclusion(backend=plan.backend, reason=f"gave a {finding.verdict.value} picture"))

    @property
    def away(self) -> float:
        """Seconds until any device has a process, as far as can be told; 0: one has, infinity: nobody knows."""
        return min((link.away for link in self._links if link.usable), default=math.inf)

    @property
    def devices(self) -> int:
        """Devices that can be given a job."""
        return sum(link.usable for link in self._links)

    def _place(
        self, job: JobSpec, model: Model, excluded: Sequence[Exclusion], failures: Mapping[int, int]
    ) -> tuple[DeviceLink, Plan]:
        """The device that gets a job, and its plan there."""
        usable = [link for link in self._links if link.usable]
        if not usable:
            raise DeviceUnusable("no device process can be started; see the errors above")
        able: dict[int, tuple[DeviceLink, Plan]] = {}
        refusals: list[str] = []
        for link in usable:
            try:
                able[link.index] = link, self._route(job, model, link, excluded)
            except EngineRefused as refused:
                refusals.append(str(refused))
        if not able:
            raise EngineRefused("; ".join(dict.fromkeys(refusals)))
        views = {
            link.index: link.view(model.name, plan.backend, failures=failures.get(link.index, 0))
            for link, plan in able.values()
        }
        chosen = place(tuple(views.values()), job.megapixel_steps)
        away, left = views[chosen].away, job.due - self._clock()
        if away > max(left, 0.0):
            raise DeviceUnusable(f"device {chosen} has no process for {away:.0f} s, and the job is due in {left:.0f} s")
        return able[chosen]

    def _tell(self, job: JobSpec, link: DeviceLink, plan: Plan, told: set[str]) -> None:
        """Say where a job goes, and count what is not as it should be. Args: told: what was said of it before."""
        logger.debug(
            "Job {}: device {}, backend {}, engine {}, bucket {}, reason: {}",
            job.id,
            link.index,
            plan.backend,
            plan.engine,
            plan.bucket.label,
            plan.reason,
        )
        if plan.stand_in and plan.stand_in not in told:
            told.add(plan.stand_in)
            self._fell_back(plan.stand_in)
            logger.info("Job {}: {}", job.id, plan.stand_in)
        if plan.fallback:
            self._fell_back(plan.reason)
            logger.info("Job {} runs on {}: {}", job.id, plan.backend, plan.reason)

    def _route(self, job: JobSpec, model: Model, link: DeviceLink, excluded: Sequence[Exclusion]) -> Plan:
        """The plan of a job on a device, passing over engines in quarantine, and where it can over suspected ones."""
        barred = [one for one in excluded if one.device in {None, link.index}]
        losses = recent(self._losses, self._clock())
        suspected = suspected_engines(losses, limit=self._faults_until_quarantine)
        avoided: Plan | None = None
        while True:
            try:
                plan = route(job, model, link.ladder, max_rows=self._max_rows, excluded=barred)
            except EngineRefused:
                if avoided is None:
                    raise
                return avoided
            suspect = _suspect(job, link, plan)
            if (refusal := self.health.refusal(suspect)) is not None:
                reason = refusal
            elif lost := suspected.get((link.index, plan.backend, plan.engine)):
                reason = f"{plan.engine} is avoided after it lost its process {lost} times, with different jobs"
                avoided = avoided or plan
            else:
                return plan
            barred.append(Exclusion(backend=plan.backend, reason=reason))

    def _accuse(self, job: JobSpec, plan: Plan, lost: ProcessLost) -> Culprit:
        """Whose doing a lost process is, as far as it can be told by now."""
        kept = recent(self._losses, self._clock())
        self._losses = kept if lost.loss in kept else (*kept, lost.loss)  # every job that was aboard brings it
        culprit = accuse(job.id, plan.backend, self._losses, limit=self._crashes_per_backend)
        logger.warning("Job {} lost its process ({}): {}", job.id, culprit.value, lost)
        return culprit

    async def _judge(self, job: JobSpec, failed: Sequence[_Failure]) -> None:
        """A job has failed everywhere: see which of the engines fail with a job of ours, too.

        Raises: BadJob: its values are not finite, and it is its own doing.
        """
        verdicts: dict[Suspect, str | None] = {}
        with anyio.move_on_after(max(job.due - self._clock(), 0.0)):
            for failure in failed:
                verdicts[failure.suspect] = await self.health.verdict(failure.suspect, failure.trial, failure.at)
        sound = [str(suspect) for suspect, verdict in verdicts.items() if verdict == ""]
        if sound and len(failed) > 1 and not any(failure.finite for failure in failed):
            raise BadJob(
                f"job {job.id}: its values are not finite on {', '.join(map(str, verdicts))}, and {', '.join(sound)} "
                "made a job of ours since then: it is the job's doing"
            )
        if failed:
            self.health.failed_everywhere(failed[0].trial.model, failed[-1].reason)

    def _worked(self, link: DeviceLink, plan: Plan, job: JobSpec, failed: Sequence[_Failure]) -> None:
        """A job was made: what it had failed with before is to blame for that."""
        for failure in failed:
            self.health.blame(failure.suspect, failure.trial, failure.reason, certain=failure.finite)
        self.health.made(_suspect(job, link, plan))

    def _failure(
        self, job: JobSpec, model: Model, link: DeviceLink, plan: Plan, reason: str, *, finite: bool = True
    ) -> _Failure:
        trial = Trial(model=model, size=(job.width, job.height), source=job.source is not None)
        suspect = _suspect(job, link, plan)
        return _Failure(suspect=suspect, trial=trial, reason=reason, finite=finite, at=self._clock())

    def _exclusion(self, job: JobSpec, link: DeviceLink, plan: Plan, failure: frames.Failed) -> Exclusion:
        """Where the job is not sent any more. Raises: what says that it is the job's own fault, or that it is late."""
        match failure.kind:
            case "bad_job":
                raise BadJob(f"job {job.id}: {failure.message}")
            case "bad_source":
                raise BadSourceImage(f"job {job.id}: {failure.message}")
            case "unservable":
                raise UnservableJob(f"job {job.id}: {failure.message}")
            case "late":
                raise LateJob(f"job {job.id}: {failure.message}")
            case "unexpected":  # the job's or the backend's, but nobody foresaw it: no engine is blamed for it
                logger.error("Job {} failed on {} ({}): {}", job.id, plan.backend, failure.engine, failure.message)
                return Exclusion(backend=plan.backend, reason=f"failed: {failure.message}", device=link.index)
            case "unsuited" | "not_at_hand":
                return Exclusion(backend=plan.backend, reason=failure.message, device=link.index)
        logger.error("Job {} failed on {} ({}): {}", job.id, plan.backend, failure.engine, failure.message)
        return Exclusion(backend=plan.backend, reason=f"failed: {failure.message}", device=link.index)


def _first_flaw(job: JobSpec, making: Making) -> Finding | None:
    """What is wrong with the first picture that is not as it should be; every pixel is looked at."""
    findings = (inspect_picture(image, width=job.width, height=job.height) for image in making.images)
    return next((finding for finding in findings if not finding.passed), None)


def _suspect(job: JobSpec, link: DeviceLink, plan: Plan) -> Suspect:
    """What failed if the job fails there. Jobs with a source image need one network more than others."""
    engine = plan.engine if job.source is None else f"{plan.engine} with a source image"
    return Suspect(device=link.index, backend=plan.backend, model=job.model, engine=engine)


def _is_of(exclusion: Exclusion, suspect: Suspect) -> bool:
    return (exclusion.device, exclusion.backend) == (suspect.device, suspect.backend)
