"""The loop that owns a device: admit, step, hand out. What it decides, pure functions elsewhere decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from trt_engines.backend import Engine, EngineBackend, EngineSpec
from trt_engines.bucket import Bucket
from trt_engines.errors import EngineError, EngineFault
from trt_engines.model import Component, Model
from trt_worker.batch.admission import BatchKey
from trt_worker.batch.scheduler import Scheduler
from trt_worker.condition.encode import Conditioner
from trt_worker.condition.source import encode_source
from trt_worker.condition.tokenizer import ClipTokenizer
from trt_worker.decode.decoder import Decoder
from trt_worker.denoise.start import Sampling, parameterisation_of, start
from trt_worker.errors import BadJob, UnservableJob
from trt_worker.runtime import frames
from trt_worker.runtime.step_batch import Row, StepBatch

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
        emit: sends a frame to the supervisor; may block while the supervisor reads.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        backends: Mapping[str, EngineBackend],
        *,
        max_rows: int,
        emit: Emit,
    ) -> None:
        self._models = models
        self._backends = backends
        self._max_rows = max_rows
        self._emit = emit
        self._engines: dict[tuple[str, EngineSpec], Engine] = {}
        self._conditioners: dict[tuple[str, str], Conditioner] = {}
        self._decoders: dict[BatchKey, Decoder] = {}
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
        except BadJob as error:
            self._give_up(job, "bad_job", str(error))
        except EngineError as error:
            self._give_up(job, "fault", str(error))

    def withdraw(self, job_id: str) -> None:
        """Forget a job; its rows leave before the next step."""
        self._jobs.pop(job_id, None)
        self._scheduler.leave(job_id)
        for batch in self._batches.values():
            batch.leave(job_id)

    def step(self) -> None:
        """Admit waiting rows, advance one batch by one stage, and hand out what is finished."""
        now = monotonic()
        decision = self._scheduler.decide(now)
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
        engines = len(self._engines)
        try:
            report = batch.step()
        except EngineError as error:
            self._batch_failed(batch, error)
            return
        self._count(key, report.images, report.engine_seconds, report.seconds)
        self._scheduler.stepped(key, report.seconds, typical=engines == len(self._engines))
        for row, latent in report.finished:
            self._decode(key, row, latent)
        self._report(jobs, monotonic())
        if not batch.rows:
            del self._batches[key]

    def _prepare(self, job: _Job, source: bytes) -> None:
        run = job.run
        model = self._models.get(run.model)
        backend = self._backends.get(run.backend)
        if model is None or backend is None:
            raise UnservableJob(f"this device has no {run.model if model is None else run.backend}")
        conditioner = self._conditioner(model, backend)
        positive = conditioner.encode(run.prompt, run.clip_skip)
        negative = conditioner.encode(run.negative_prompt, run.clip_skip) if run.guidance != 1.0 else None
        for note in (*positive.notes, *(negative.notes if negative else ())):
            logger.info("Job {}: {}", run.id, note)
        encoded = self._encode_source(model, backend, run, source) if source else None
        sampling = Sampling(
            sampler=run.sampler,
            scheduler=run.scheduler,
            steps=run.steps,
            guidance=run.guidance,
            strength=run.strength,
        )
        levels = parameterisation_of(model)
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
            job.rows[index] = job.waiting[index] = row
            self._scheduler.enter(
                run.id, index, _key(run), arrived=run.received, due=run.due, stages=len(begun.program.c_in)
            )

    def _new_batch(self, key: BatchKey) -> StepBatch:
        model, backend = self._models[key.model], self._backends[key.backend]
        latent = _latent_shape(model, key.width, key.height)

        def engine_for(tokens: int) -> Engine:
            return self._engine(backend, model, Component.DENOISER, key, rows=2 * self._max_rows, tokens=tokens)

        batch = self._batches[key] = StepBatch(key, self._max_rows, latent, engine_for)
        return batch

    def _decode(self, key: BatchKey, row: Row, latent: NDArray[np.float32]) -> None:
        job = self._jobs.get(row.job)
        if job is None:
            return
        job.denoised = monotonic()
        try:
            decoder = self._decoders.get(key) or self._new_decoder(key)
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

    def _count(self, key: BatchKey, images: int, engine_seconds: float, seconds: float) -> None:
        self._calls += 1
        self._rows += images
        self._engine_seconds += engine_seconds
        self._loop_seconds += seconds
        self._megapixel_steps += key.width * key.height / 1e6 * images

    def _engine(
        self, backend: EngineBackend, model: Model, component: Component, size: BatchKey, *, rows: int, tokens: int = 77
    ) -> Engine:
        bucket = Bucket(width=size.width, height=size.height, rows=rows, tokens=tokens)
        spec = EngineSpec(model=model, component=component, bucket=bucket)
        known = self._engines.get((backend.name, spec))
        if known is None:
            self._emit(frames.Loading(engine=spec.label), None)
            known = self._engines[backend.name, spec] = backend.load(spec)
        return known

    def _new_decoder(self, key: BatchKey) -> Decoder:
        model, backend = self._models[key.model], self._backends[key.backend]
        decoder = self._decoders[key] = Decoder(self._engine(backend, model, Component.VAE_DECODER, key, rows=1))
        return decoder

    def _conditioner(self, model: Model, backend: EngineBackend) -> Conditioner:
        known = self._conditioners.get((model.name, backend.name))
        if known is None:
            spec = EngineSpec(
                model=model,
                component=Component.TEXT_ENCODER,
                bucket=Bucket(width=model.native_width, height=model.native_height, rows=1),
            )
            self._emit(frames.Loading(engine=spec.label), None)
            tokenizer = ClipTokenizer(model.vocab, model.merges)
            known = self._conditioners[model.name, backend.name] = Conditioner(backend.load(spec), tokenizer)
        return known

    def _encode_source(
        self, model: Model, backend: EngineBackend, run: frames.Run, source: bytes
    ) -> NDArray[np.float32]:
        """The source image as a latent, float32 [channels, height, width]."""
        engine = self._engine(backend, model, Component.VAE_ENCODER, _key(run), rows=1)
        engine.inputs["pixels"][0] = encode_source(source, run.width, run.height, run.source_crop)
        engine.run(1)
        latent: NDArray[np.float32] = engine.outputs["latent"][0].copy()
        if not np.isfinite(latent).all():
            raise EngineFault(f"{engine.spec.label}: the encoded source image holds values that are not finite")
        return latent


def _key(run: frames.Run) -> BatchKey:
    return BatchKey(model=run.model, backend=run.backend, width=run.width, height=run.height)


def _latent_shape(model: Model, width: int, height: int) -> tuple[int, int, int]:
    return model.latent_channels, height // model.latent_scale, width // model.latent_scale
