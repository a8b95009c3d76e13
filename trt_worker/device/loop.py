"""The loop that owns a device: prepare, admit, step, hand out. What it decides, pure functions elsewhere decide."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from trt_engines.backend import Engine, EngineBackend
from trt_engines.devices.errors import DeviceFault
from trt_engines.devices.memory import Buffer
from trt_engines.errors import EngineError, NotFinite, OutOfMemory
from trt_engines.model import Model
from trt_engines.residency import Memory
from trt_worker import frames
from trt_worker.batch.admission import BatchKey
from trt_worker.batch.scheduler import Scheduler
from trt_worker.condition.source import SourceEncoding
from trt_worker.decode.decoder import Decoded
from trt_worker.device.batches import Batches
from trt_worker.device.networks import Networks
from trt_worker.device.overflow import overflow
from trt_worker.device.preparation import Preparation, batch_key
from trt_worker.device.row import Row
from trt_worker.device.step_batch import Step, StepBatch, device_bytes
from trt_worker.device.steps_under_way import MeasuredStep
from trt_worker.device.totals import RunningTotals
from trt_worker.errors import BackendUnsuited, BadJob, BadSourceImage, DeviceLost, NotAtHand, UnservableJob

PROGRESS_SECONDS = 0.5

DENOISE_STREAMS = 2
"""Batches that step at the same time: one fills what the other leaves idle of a card."""

Emit = Callable[[frames.FromDevice, "NDArray[np.uint8] | None"], None]
T = TypeVar("T")

ENDS_THE_PROCESS = (DeviceFault, DeviceLost)
"""Beside what is no `Exception`, all that ends the process: the device cannot be trusted any more, or nobody is there
to take what it makes. Anything else that one job's work throws ends that job."""

_KINDS: dict[type[Exception], str] = {
    UnservableJob: "unservable",
    BadSourceImage: "bad_source",
    BadJob: "bad_job",
    BackendUnsuited: "unsuited",
    NotAtHand: "not_at_hand",
    NotFinite: "not_finite",
    EngineError: "fault",
    Exception: "unexpected",
}
"""How a job is called that ended; the first class that fits."""

_LONGEST_MESSAGE = 2_000  # characters that the supervisor is told of a failure


@dataclass(slots=True, kw_only=True)
class _Job:
    run: frames.Run
    started: float
    rows: dict[int, Row] = field(default_factory=dict)
    waiting: dict[int, Row] = field(default_factory=dict)
    sent: set[int] = field(default_factory=set)  # images whose pixels have left
    engine_seconds: float = 0.0
    stages: int = 0  # of all its rows, that the device is through with
    denoised: float = 0.0
    reported: float = 0.0

    @property
    def fraction(self) -> float:
        """Share of its rows' stages that are done; rows themselves say what the host has asked for."""
        return self.stages / sum(len(row.program.c_in) for row in self.rows.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """What a decoder is told of an image."""

    job: str
    index: int
    key: BatchKey
    engine: str
    value: np.dtype[Any]  # that the denoiser computes with


class DeviceLoop:
    """All jobs of one device process.

    The device works behind the host: what `step` puts into its streams is done later, and seen in a later `step`.

    Args:
        models: what can be run at first, by name; `know` adds others.
        backends: by name; each loads its engines here, in this process.
        max_rows: images of one batch.
        budgets: bytes that may be taken of the card's memory and of the machine's.
        emit: sends a frame to the supervisor; may block while the supervisor reads.
        clock: seconds, of which the jobs' `received` and `due` are.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        backends: Mapping[str, EngineBackend],
        *,
        max_rows: int,
        budgets: Mapping[Memory, int],
        emit: Emit,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._models = dict(models)
        self._backends = backends
        self._max_rows = max_rows
        self._emit = emit
        self._clock = clock
        self._batches = Batches(self._new_batch, self._batch_closed, clock)
        self._networks: Networks[_Picture] = Networks(
            budgets,
            slots=max_rows,
            denoise_streams=DENOISE_STREAMS,
            in_use=self._engines_in_use,
            loading=lambda spec: emit(frames.Loading(engine=spec.label), None),
            loaded=lambda spec: emit(frames.Loaded(engine=spec.label), None),
            closing=self._batches.forget,
            clock=clock,
        )
        self._stepping: StepBatch | None = None
        self._told: tuple[frozenset[str], int] = frozenset(), 0  # models in memory, and engines loaded so far
        self._jobs: dict[str, _Job] = {}
        self._preparing: deque[Preparation] = deque()
        self._undecoded: list[tuple[str, Exception]] = []  # jobs whose latent was not decoded in this step, and why
        self._scheduler = Scheduler(max_rows)
        self._totals = RunningTotals()
        self._totals_sent = 0.0

    @property
    def busy(self) -> bool:
        """Whether any job is unfinished, or a step is under way, even of a job that was withdrawn: how long it took is
        only known to who looks at its end."""
        return bool(self._jobs) or self._batches.under_way

    def know(self, models: Collection[Model]) -> None:
        """Take jobs of further models. One that is known stays what it was: its engines may be loaded."""
        for model in models:
            self._models.setdefault(model.name, model)

    def take(self, run: frames.Run, source: bytes) -> None:
        """Accept a job: its prompts and source are encoded, and then its images wait for a place."""
        self._jobs[run.job.id] = _Job(run=run, started=self._clock())
        with self._work_of(run.job.id):
            self._preparing.append(self._with_room(lambda: self._prepare(run, source)))
        self._enter_prepared()
        self._tell_models()

    def withdraw(self, job_id: str) -> None:
        """Forget a job; its rows leave before the next step."""
        self._jobs.pop(job_id, None)
        self._scheduler.leave(job_id)
        self._batches.leave(job_id)

    def step(self) -> None:
        """Put a stage of one batch into its stream, if any can take one, and hand out what has come back.

        Waits for the device only when there is nothing that it could be given.
        """
        self._enter_prepared()
        now = self._clock()
        full = self._batches.full()
        decision = self._scheduler.decide(
            now,
            switch_seconds=self._networks.switch_seconds,
            stepping=full,
            loads=lambda key: not self._networks.has_denoiser(key),
        )
        for joining in decision.join:
            if (job := self._jobs.get(joining.job)) is not None:
                with self._work_of(joining.job):
                    self._join(joining.key, job.waiting.pop(joining.index))
        for late in {late.job: late for late in decision.late}.values():
            message = f"needs {late.seconds_left:.1f} s more and is due in {late.due - now:.1f} s"
            self._give_up(late.job, "late", message)
        if decision.step is not None and (batch := self._batches.get(decision.step)) is not None:
            self._step(batch)
        else:
            self._wait()
        self._collect()
        self._tell_models()

    def _prepare(self, run: frames.Run, source: bytes) -> Preparation:
        """Raises: NotAtHand, UnservableJob, BadSourceImage, BadJob, EngineError."""
        job = run.job
        model, backend = self._models.get(job.model), self._backends.get(run.backend)
        if model is None or backend is None:
            raise NotAtHand(f"this device was not told of {job.model if model is None else run.backend}")
        encoded = None
        if source:  # first: one that is no image costs nothing else
            key = batch_key(run)

            def encode() -> SourceEncoding:
                return self._networks.source_encoder(model, backend, key).begin(source, job.source_fit)

            encoded = self._in_tiles_at_worst(model, backend, model.facts.encoder, key, encode)
        prompts = [job.prompt]
        if model.facts.passes[0].guidance.second_evaluation(job.guidance):
            prompts.append(job.negative_prompt)
        positive, *negative = self._networks.encode(model, backend, prompts, job.clip_skip)
        return Preparation(run=run, model=model, positive=positive, negative=next(iter(negative), None), source=encoded)

    def _enter_prepared(self, *, wait: bool = False) -> None:
        """Let images wait for a place whose inputs are encoded. Args: wait: for the first ones, if there are any."""
        while self._preparing and (wait or self._is_prepared(self._preparing[0])):
            prepared, wait = self._preparing.popleft(), False
            with self._work_of(prepared.run.job.id):
                self._enter(prepared)

    def _is_prepared(self, preparation: Preparation) -> bool:
        with self._work_of(preparation.run.job.id):
            return preparation.done
        return True  # the job has ended: its turn is over

    def _enter(self, prepared: Preparation) -> None:
        """Raises: UnservableJob, BackendUnsuited, EngineError."""
        rows = prepared.rows()
        run, model, key = prepared.run, prepared.model, batch_key(prepared.run)
        if (job := self._jobs.get(run.job.id)) is None:
            return
        backend = self._backends[run.backend]
        if self._batches.get(key) is None and not self._waits_for_its_turn(key):
            denoiser = self._with_room(lambda: self._networks.denoiser(model, backend, key, self._max_rows))
            self._scheduler.limit(key, max(denoiser.rows // model.facts.rows, 1))
        for tokens in {tokens for row in rows.values() for tokens in row.context_lengths}:
            if refusal := self._networks.refuses(model, backend, key, tokens):
                raise BackendUnsuited(refusal)
        for index, row in rows.items():
            job.rows[index] = job.waiting[index] = row
            stages = len(row.program.c_in)
            self._scheduler.enter(run.job.id, index, key, arrived=run.job.received, due=run.job.due, stages=stages)

    def _waits_for_its_turn(self, key: BatchKey) -> bool:
        """Whether a size's denoiser, which says how many images it takes, would be loaded amid the steps of others, and
        what it said before will do."""
        known = self._scheduler.limited(key)
        return known and self._batches.with_rows and not self._networks.has_denoiser(key)

    @contextmanager
    def _work_of(self, job_id: str) -> Iterator[None]:
        """The border of one job: whatever is thrown in here ends that job, but what ends the process."""
        try:
            yield
        except ENDS_THE_PROCESS:
            raise
        except Exception as error:  # noqa: BLE001  # `_ended_by` says what it was
            self._ended_by(job_id, error)

    def _ended_by(self, job_id: str, error: Exception) -> None:
        """A job's own work has thrown something."""
        kind = next(kind for known, kind in _KINDS.items() if isinstance(error, known))
        message = str(error)
        if kind == "unexpected":
            message = f"an unexpected {type(error).__name__}: {message}"
            logger.opt(exception=error).error("Job {} ends with {}. The others go on.", job_id, message)
        self._give_up(job_id, kind, message)

    def _join(self, key: BatchKey, row: Row) -> None:
        self._with_room(lambda: self._batches.open(key, self._scheduler.most_rows(key))).join(row)

    def _new_batch(self, key: BatchKey, images: int) -> StepBatch:
        model, backend = self._models[key.model], self._backends[key.backend]
        stream = self._networks.denoise_stream(backend, key)
        facts = model.facts
        latent = facts.passes[0].latent.shape(key.width, key.height)
        ports = facts.network(facts.passes[0].denoiser).ports

        def engine_for(tokens: int, rows: int) -> Engine:
            return self._networks.denoiser(model, backend, key, images, tokens, rows)

        self._networks.reserve(backend, key, device_bytes(images, latent))
        try:
            return StepBatch(key, images, latent, ports, backend.device, stream, engine_for)
        except OutOfMemory:
            self._networks.release(key)
            raise

    def _batch_closed(self, key: BatchKey) -> None:
        self._networks.release(key)

    def _step(self, batch: StepBatch) -> None:
        self._stepping = batch
        try:
            if self._put_step(batch):
                batch.hand_out(self._decoder_of(batch))
        finally:
            self._stepping = None
        undecoded, self._undecoded = self._undecoded, []
        for job_id, error in undecoded:
            self._ended_by(job_id, error)

    def _put_step(self, batch: StepBatch) -> bool:
        """Put a stage into the batch's stream. Returns: False: it was refused, and the batch is given up."""
        began, loads = self._clock(), self._networks.loads
        try:
            step: Step = self._with_room(batch.step)
        except EngineError as error:
            self._batch_failed(batch, error)
            return False
        except ENDS_THE_PROCESS:
            raise
        except Exception as error:  # noqa: BLE001  # it may be one row's: the others are to survive it
            self._step_alone(batch, error)
            return bool(batch.rows)
        self._scheduler.stepped(batch.key)
        self._batches.stepped(batch, step, began=began, loads=loads)
        self._measure()  # before pictures are begun: the processor makes them at once
        return True

    def _step_alone(self, batch: StepBatch, error: Exception) -> None:
        """A step has thrown something unexpected: each job takes it by itself, so that the one that throws is found.

        The rows are as they were: their registers change with the last thing that a step does.
        """
        jobs = tuple(dict.fromkeys(row.job for row in batch.rows))
        logger.opt(exception=error).error(
            "A step of {} job(s) of {} has ended with an unexpected {}; each takes it alone.",
            len(jobs),
            batch.key.model,
            type(error).__name__,
        )
        for job_id in jobs:
            self._batches.finish(batch)
            began, loads = self._clock(), self._networks.loads
            with self._work_of(job_id):
                step = self._with_room(partial(batch.step, job_id))
                self._batches.stepped(batch, step, began=began, loads=loads)
        if batch.rows:
            self._scheduler.stepped(batch.key)
        else:
            self._batches.close(batch.key)
        self._measure()

    def _decoder_of(self, batch: StepBatch) -> Callable[[Row, Buffer], None]:
        """Gives finished latents of a batch to their decoder."""
        key = batch.key
        model, backend = self._models[key.model], self._backends[key.backend]
        # Of its step just now. It forgets its engines when a row leaves, as after a step that each row took alone: then
        # nothing but a range that all types have is held against a job, and a second engine tells more.
        value = batch.value

        def decode(row: Row, latent: Buffer) -> None:
            decoder = self._networks.decoder(model, backend, key)
            picture = _Picture(job=row.job, index=row.index, key=key, engine=decoder.engine.label, value=value)
            decoder.begin(picture, latent, batch.stream)

        def hand_out(row: Row, latent: Buffer) -> None:
            try:
                try:
                    self._with_room(lambda: decode(row, latent))
                except OutOfMemory:
                    batch.release_engines()  # all of the step's calls are in the stream: they may leave for a decoder
                    self._in_tiles_at_worst(model, backend, model.facts.decoder, key, lambda: decode(row, latent))
            except ENDS_THE_PROCESS:
                raise
            except Exception as error:  # noqa: BLE001  # told once the step is through
                self._undecoded.append((row.job, error))

        return hand_out

    def _with_room(self, work: Callable[[], T]) -> T:
        """What asks for memory; a device without any gives back what is idle and is asked once more."""
        try:
            return work()
        except OutOfMemory as error:
            batches = self._batches.close_idle(keep=self._stepping)
            freed = self._networks.free_idle()
            if not freed and not batches:
                raise
            logger.warning("{}; {} network(s) were closed and it is tried once more.", error, freed)
            return work()

    def _in_tiles_at_worst(
        self, model: Model, backend: EngineBackend, network: str, key: BatchKey, work: Callable[[], T]
    ) -> T:
        """What asks for an autoencoder; where there is no room for it once all that is idle was closed, it is asked
        once more for smaller tiles."""
        while True:
            try:
                return self._with_room(work)
            except OutOfMemory as error:
                if not self._networks.smaller_tiles(model, backend, network, key):
                    raise
                logger.warning("{}; {}x{} is tried in smaller tiles.", error, key.width, key.height)

    def _wait(self) -> None:
        """There is nothing to give to the device: wait for the first thing that changes that."""
        if self._batches.wait():
            return
        if self._preparing:
            self._enter_prepared(wait=True)
        else:
            self._networks.wait_for_picture()

    def _collect(self) -> None:
        """Look at what the device has done meanwhile. Pictures are looked for first: their steps are done then."""
        pictures = self._networks.decoded()
        self._measure()
        for picture in pictures:
            with self._work_of(picture.tag.job):
                self._picture_back(picture)

    def _measure(self) -> None:
        """Look which steps are done."""
        for measured in self._batches.done():
            self._stepped(measured)

    def _stepped(self, measured: MeasuredStep) -> None:
        images, now = len(measured.rows), self._clock()
        typical = measured.loads == self._networks.loads
        self._scheduler.measured(measured.key, images, measured.seconds, typical=typical)
        self._totals.add(measured)
        for row in measured.rows:
            if (job := self._jobs.get(row.job)) is None:
                continue
            with self._work_of(row.job):
                job.engine_seconds += measured.engine_seconds / images
                job.stages += 1
                job.denoised = now
                if now - job.reported >= PROGRESS_SECONDS:
                    job.reported = now
                    self._emit(frames.Progress(id=row.job, fraction=job.fraction), None)
        if now - self._totals_sent >= PROGRESS_SECONDS:
            self._send_totals(now)

    def _picture_back(self, decoded: Decoded[_Picture]) -> None:
        picture = decoded.tag
        if (job := self._jobs.get(picture.job)) is None:
            return
        if decoded.error is not None:
            raise decoded.error
        if not decoded.finite:
            if own := overflow(job.rows[picture.index], picture.value):
                self._give_up(picture.job, "bad_job", f"{own}: the picture is not finite")
            else:
                self._give_up(picture.job, "not_finite", f"{picture.engine}: its output is not finite")
            return
        key = picture.key
        self._scheduler.decode_speed.measured(key, 1, decoded.seconds)
        header = frames.Pixels(id=picture.job, index=picture.index, width=key.width, height=key.height)
        self._emit(header, decoded.pixels)
        job.sent.add(picture.index)
        if len(job.sent) == len(job.rows):
            self._finish(job)

    def _finish(self, job: _Job) -> None:
        rows = job.rows.values()
        self._send_totals(self._clock())
        self._tell_models()
        self._emit(
            frames.Made(
                id=job.run.job.id,
                started=job.started,
                denoised=job.denoised,
                decoded=self._clock(),
                engine_seconds=job.engine_seconds,
                mean_rows=sum(row.shared_rows for row in rows) / sum(row.stage for row in rows),
            ),
            None,
        )
        del self._jobs[job.run.job.id]  # last: until it is said that it is made, it can still be said that it is not

    def _give_up(self, job_id: str, kind: str, message: str) -> None:
        if (job := self._jobs.get(job_id)) is None:
            return
        run = job.run
        self.withdraw(job_id)
        engine = f"{run.job.model}/{run.job.width}x{run.job.height}"
        told = message[:_LONGEST_MESSAGE]
        self._emit(frames.Failed(id=job_id, kind=kind, backend=run.backend, engine=engine, message=told), None)

    def _batch_failed(self, batch: StepBatch, error: EngineError) -> None:
        """An engine fault ends every job of the batch here; the supervisor takes them to the next backend."""
        for job_id in {row.job for row in batch.rows}:
            self._give_up(job_id, "fault", str(error))
        self._batches.close(batch.key)

    def _send_totals(self, now: float) -> None:
        self._totals_sent = now
        self._emit(self._totals.frame, None)

    def _engines_in_use(self) -> tuple[Engine, ...]:
        return self._stepping.engines if self._stepping else ()

    def _tell_models(self) -> None:
        if (now := (self._networks.models, self._networks.loads)) != self._told:
            self._told = now
            times = [
                frames.LoadTime(backend=backend, model=model, seconds=seconds)
                for (backend, model), seconds in sorted(self._networks.load_times.items())
            ]
            self._emit(frames.Resident(models=tuple(sorted(self._networks.models)), load_times=tuple(times)), None)
