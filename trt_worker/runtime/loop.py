"""The loop that owns a device: admit, step, hand out. What it decides, pure functions elsewhere decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from trt_engines.backend import Engine, EngineBackend
from trt_engines.errors import EngineError, OutOfMemory
from trt_engines.model import Model
from trt_worker.batch.admission import BatchKey
from trt_worker.batch.scheduler import Scheduler
from trt_worker.denoise.start import Sampling, parameterisation_of, start
from trt_worker.errors import BackendUnsuited, BadJob, BadSourceImage, UnservableJob
from trt_worker.runtime import frames
from trt_worker.runtime.networks import Networks
from trt_worker.runtime.step_batch import Row, StepBatch, StepReport

PROGRESS_SECONDS = 0.5

Emit = Callable[[frames.FromDevice, "NDArray[np.uint8] | None"], None]


@dataclass(slots=True, kw_only=True)
class _Job:
    run: frames.Run
    started: float
    rows: dict[int, Row] = field(default_factory=dict)
    waiting: dict[int, Row] = field(default_factory=dict)
    sent: set[int] = field(default_factory=set)  # images whose pixels have left
    denoised: float = 0.0
    reported: float = 0.0

    @property
    def fraction(self) -> float:
        return sum(row.fraction for row in self.rows.values()) / len(self.rows)


class DeviceLoop:
    """All jobs of one device process.

    Args:
        models: what can be run, by name.
        backends: by name; each loads its engines here, in this process.
        max_rows: images of one batch.
        memory: bytes of the device that engines may take.
        emit: sends a frame to the supervisor; may block while the supervisor reads.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        backends: Mapping[str, EngineBackend],
        *,
        max_rows: int,
        memory: int,
        emit: Emit,
    ) -> None:
        self._models = models
        self._backends = backends
        self._max_rows = max_rows
        self._emit = emit
        self._networks = Networks(
            memory,
            in_use=self._engines_in_use,
            loading=lambda spec: emit(frames.Loading(engine=spec.label), None),
            loaded=lambda spec: emit(frames.Loaded(engine=spec.label), None),
            closed=self._closed,
        )
        self._stepping: StepBatch | None = None
        self._told: tuple[frozenset[str], int] = frozenset(), 0  # models in memory, and engines loaded so far
        self._jobs: dict[str, _Job] = {}
        self._batches: dict[BatchKey, StepBatch] = {}
        self._scheduler = Scheduler(max_rows)
        self._calls = 0
        self._rows = 0
        self._engine_seconds = 0.0
        self._loop_seconds = 0.0
        self._megapixel_steps = 0.0
        self._totals_sent = 0.0

    @property
    def busy(self) -> bool:
        """Whether any job is unfinished."""
        return bool(self._jobs)

    def take(self, run: frames.Run, source: bytes) -> None:
        """Accept a job: encode its prompts and source, and let its images wait for a place."""
        job = _Job(run=run, started=monotonic())
        self._jobs[run.id] = job
        try:
            self._prepare(job, source)
        except UnservableJob as error:
            self._give_up(job, "unservable", str(error))
        except BadSourceImage as error:
            self._give_up(job, "bad_source", str(error))
        except BadJob as error:
            self._give_up(job, "bad_job", str(error))
        except BackendUnsuited as error:
            self._give_up(job, "unsuited", str(error))
        except EngineError as error:
            self._give_up(job, "fault", str(error))
        self._tell_models()

    def withdraw(self, job_id: str) -> None:
        """Forget a job; its rows leave before the next step."""
        self._jobs.pop(job_id, None)
        self._scheduler.leave(job_id)
        for batch in self._batches.values():
            batch.leave(job_id)

    def step(self) -> None:
        """Admit waiting rows, advance one batch by one stage, and hand out what is finished."""
        now = monotonic()
        decision = self._scheduler.decide(now, switch_seconds=self._networks.switch_seconds)
        for joining in decision.join:
            batch = self._batches.get(joining.key) or self._new_batch(joining.key)
            batch.join(self._jobs[joining.job].waiting.pop(joining.index))
        for late in {late.job: late for late in decision.late}.values():
            message = f"needs {late.seconds_left:.1f} s more and is due in {late.due - now:.1f} s"
            self._give_up(self._jobs[late.job], "late", message)
        if (key := decision.step) is None or not self._batches[key].rows:
            return
        batch = self._batches[key]
        jobs = {row.job for row in batch.rows}
        loads = self._networks.loads
        try:
            report = self._step(batch)
        except EngineError as error:
            self._batch_failed(batch, error)
            return
        self._count(key, report.images, report.engine_seconds, report.seconds)
        self._scheduler.stepped(key, report.seconds, typical=loads == self._networks.loads)
        for row, latent in report.finished:
            self._decode(key, row, latent)
        self._report(jobs, monotonic())
        self._tell_models()
        if not batch.rows:
            del self._batches[key]

    def _step(self, batch: StepBatch) -> StepReport:
        """One stage of a batch; a device out of memory gives back what is idle and is asked once more."""
        self._stepping = batch
        try:
            return batch.step()
        except OutOfMemory as error:
            if not (freed := self._networks.free_idle()):
                raise
            logger.warning("{}; {} network(s) were closed and it is tried once more.", error, freed)
            return batch.step()
        finally:
            self._stepping = None

    def _prepare(self, job: _Job, source: bytes) -> None:
        run = job.run
        model = self._models.get(run.model)
        backend = self._backends.get(run.backend)
        if model is None or backend is None:
            raise UnservableJob(f"this device has no {run.model if model is None else run.backend}")
        key = _key(run)
        conditioner = self._networks.conditioner(model, backend)
        positive = conditioner.encode(run.prompt, run.clip_skip)
        negative = conditioner.encode(run.negative_prompt, run.clip_skip) if run.guidance != 1.0 else None
        for note in (*positive.notes, *(negative.notes if negative else ())):
            logger.info("Job {}: {}", run.id, note)
        encoded = self._networks.encode(model, backend, key, source, crop=run.source_crop) if source else None
        if key not in self._batches:
            self._scheduler.limit(key, images_of(self._networks.denoiser(model, backend, key, self._max_rows)))
        sampling = Sampling(
            sampler=run.sampler,
            scheduler=run.scheduler,
            steps=run.steps,
            guidance=run.guidance,
            strength=run.strength,
        )
        levels = parameterisation_of(model, run.shift)
        shape = _latent_shape(model, run.width, run.height)
        for index, image in enumerate(run.images):
            begun = start(sampling, levels, shape, seed=image.seed, draw=image.draw, latent=encoded)
            row = Row(
                job=run.id,
                index=index,
                program=begun.program,
                start=begun.sample,
                noise=begun.noise,
                positive=positive.context,
                negative=negative.context if negative else None,
            )
            for tokens in row.context_lengths:
                if refusal := self._networks.refuses(model, backend, key, tokens):
                    raise BackendUnsuited(refusal)
            job.rows[index] = job.waiting[index] = row
            self._scheduler.enter(run.id, index, key, arrived=run.received, due=run.due, stages=len(begun.program.c_in))

    def _new_batch(self, key: BatchKey) -> StepBatch:
        model, backend = self._models[key.model], self._backends[key.backend]
        latent = _latent_shape(model, key.width, key.height)

        rows = self._scheduler.most_rows(key)

        def engine_for(tokens: int) -> Engine:
            return self._networks.denoiser(model, backend, key, rows, tokens)

        batch = self._batches[key] = StepBatch(key, rows, latent, engine_for)
        return batch

    def _decode(self, key: BatchKey, row: Row, latent: NDArray[np.float32]) -> None:
        job = self._jobs.get(row.job)
        if job is None:
            return
        job.denoised = monotonic()
        try:
            decoder = self._networks.decoder(self._models[key.model], self._backends[key.backend], key)
            began = monotonic()
            (pixels,) = decoder.decode(latent[np.newaxis])
            self._scheduler.decode_speed.measured(key, 1, monotonic() - began)
        except EngineError as error:
            self._give_up(job, "fault", str(error))
            return
        header = frames.Pixels(id=row.job, index=row.index, width=key.width, height=key.height)
        self._emit(header, pixels)
        job.sent.add(row.index)
        if len(job.sent) == len(job.rows):
            self._finish(job)

    def _finish(self, job: _Job) -> None:
        del self._jobs[job.run.id]
        rows = job.rows.values()
        self._send_totals(monotonic())
        self._tell_models()
        self._emit(
            frames.Made(
                id=job.run.id,
                started=job.started,
                denoised=job.denoised,
                decoded=monotonic(),
                engine_seconds=sum(row.engine_seconds for row in rows),
                mean_rows=sum(row.shared_rows for row in rows) / sum(row.stage for row in rows),
            ),
            None,
        )

    def _give_up(self, job: _Job, kind: str, message: str) -> None:
        self.withdraw(job.run.id)
        engine = f"{job.run.model}/{job.run.width}x{job.run.height}"
        self._emit(
            frames.Failed(id=job.run.id, kind=kind, backend=job.run.backend, engine=engine, message=message), None
        )

    def _batch_failed(self, batch: StepBatch, error: EngineError) -> None:
        """An engine fault ends every job of the batch here; the supervisor takes them to the next backend."""
        for job_id in {row.job for row in batch.rows}:
            self._give_up(self._jobs[job_id], "fault", str(error))
        self._batches.pop(batch.key, None)

    def _report(self, job_ids: set[str], now: float) -> None:
        for job_id in job_ids:
            job = self._jobs.get(job_id)
            if job is not None and now - job.reported >= PROGRESS_SECONDS:
                job.reported = now
                self._emit(frames.Progress(id=job_id, fraction=job.fraction), None)
        if now - self._totals_sent >= PROGRESS_SECONDS:
            self._send_totals(now)

    def _send_totals(self, now: float) -> None:
        self._totals_sent = now
        totals = frames.Totals(
            calls=self._calls,
            rows=self._rows,
            engine_seconds=self._engine_seconds,
            loop_seconds=self._loop_seconds,
            megapixel_steps=self._megapixel_steps,
        )
        self._emit(totals, None)

    def _engines_in_use(self) -> list[Engine]:
        return list(self._stepping.engines) if self._stepping else []

    def _closed(self, engine: Engine) -> None:
        """Rows whose engine had to leave find it again, or another, at their next step."""
        for batch in self._batches.values():
            batch.forget(engine)

    def _tell_models(self) -> None:
        if (now := (self._networks.models, self._networks.loads)) != self._told:
            self._told = now
            times = [
                frames.LoadTime(backend=backend, model=model, seconds=seconds)
                for (backend, model), seconds in sorted(self._networks.load_times.items())
            ]
            self._emit(frames.Resident(models=tuple(sorted(self._networks.models)), load_times=tuple(times)), None)

    def _count(self, key: BatchKey, images: int, engine_seconds: float, seconds: float) -> None:
        self._calls += 1
        self._rows += images
        self._engine_seconds += engine_seconds
        self._loop_seconds += seconds
        self._megapixel_steps += key.width * key.height / 1e6 * images


def images_of(denoiser: Engine) -> int:
    """Images that a denoiser takes at a time: each has two rows, for guidance."""
    return denoiser.spec.bucket.rows // 2


def _key(run: frames.Run) -> BatchKey:
    return BatchKey(model=run.model, backend=run.backend, width=run.width, height=run.height)


def _latent_shape(model: Model, width: int, height: int) -> tuple[int, int, int]:
    return model.latent_channels, height // model.latent_scale, width // model.latent_scale
