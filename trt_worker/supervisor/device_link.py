"""The supervisor's end of one device process: start it, hand it jobs, notice when it dies or hangs, start it again."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from subprocess import Popen
from time import monotonic

import anyio
import msgspec
import numpy as np
from anyio.abc import SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream
from loguru import logger
from numpy.typing import NDArray

from trt_engines.backends.ladder import make_backends
from trt_engines.model import Model
from trt_worker import frames
from trt_worker.concurrency import first_leaf
from trt_worker.errors import DeviceAway, DeviceLost, DeviceUnusable
from trt_worker.job import JobSpec
from trt_worker.plan.blame import Loss, Passenger
from trt_worker.plan.placement import DeviceView
from trt_worker.plan.route import Plan
from trt_worker.supervisor.spawn import DeviceProcess, spawn

Pixels = NDArray[np.uint8]
RESTART_WAITS = (0.0, 1.0, 5.0, 15.0, 60.0, 120.0, 300.0)
"""Seconds before a process is started again, by how many were lost in a row."""

SOUND_SECONDS = 60.0
"""A process that worked this long is no failure of the one before it: the row ends."""

_FAILED_STARTS = 3
_GRACE_SECONDS = 15.0
"""What a process may take to end once its connection is closed: a card's memory is given back meanwhile."""

_NOTHING = frames.Totals(calls=0, rows=0, engine_seconds=0.0, loop_seconds=0.0, megapixel_steps=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeJob:
    """What a device made of a job."""

    images: tuple[Pixels, ...]  # uint8 [height, width, 3] each
    timing: frames.Made


class JobFailed(Exception):
    """A device gave one job up; the process lives on."""

    def __init__(self, failure: frames.Failed) -> None:
        super().__init__(failure.message)
        self.failure = failure


class ProcessLost(DeviceLost):
    """The process that held a job died or hung under it."""

    def __init__(self, message: str, loss: Loss) -> None:
        super().__init__(message)
        self.loss = loss


@dataclass(slots=True, kw_only=True)
class _Pending:
    job: JobSpec
    plan: Plan
    progress: Callable[[float], None]
    fraction: float = 0.0
    images: dict[int, Pixels] = field(default_factory=dict)
    ended: anyio.Event = field(default_factory=anyio.Event)
    result: MadeJob | Exception | None = None

    def end(self, result: MadeJob | Exception) -> None:
        if self.result is None:  # what was made before its process was lost is made
            self.result = result
            self.ended.set()


class DeviceLink:
    """One device process and the jobs it holds.

    Args:
        configure: first frame of every process that is started, its models those that are known at first.
        silent_seconds: while jobs run, a process that says nothing for this long hangs and is killed.
        start_seconds: how long a new process may take until it is ready, and how long loading an engine may take
            unless `silent_seconds` is longer.
        restart: whether a process that is lost is started again; otherwise `run` raises at once.
        started: the first process, where one was started beforehand.
        restart_waits: seconds before a new process, by how many were lost in a row; the last one holds from then on.
        clock: seconds.
    """

    def __init__(
        self,
        configure: frames.Configure,
        *,
        silent_seconds: float,
        start_seconds: float = 300.0,
        restart: bool = True,
        started: DeviceProcess | None = None,
        restart_waits: Sequence[float] = RESTART_WAITS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.index = configure.index
        self.ladder = make_backends(configure.backends, threads=configure.threads, sm=configure.sm)
        """Backends of its processes, best first: only asked here whether they can run something, never loaded."""
        self.totals = _NOTHING
        self.restarts = 0
        self.tried = anyio.Event()
        """Set once a process is ready, or so many starts have failed that nobody knows whether one ever will be."""
        self._configure = configure
        self._silent_seconds = silent_seconds
        self._start_seconds = start_seconds
        self._started = started
        self._restart_waits = restart_waits
        self._clock = clock
        self._restart = restart
        self._failed_starts = 0  # in a row
        self._pending: dict[str, _Pending] = {}
        self._waiting: dict[str, JobSpec] = {}  # for a process
        self._runs = count()
        self._stream: SocketStream | None = None
        self._process: Popen[bytes] | None = None
        self._ready = anyio.Event()
        self._unusable: DeviceUnusable | None = None
        self._heard = 0.0
        self._patience = silent_seconds
        self._earlier = _NOTHING  # what the processes before this one did
        self._resident: frozenset[str] = frozenset()  # models of which something is in its memory
        self._load_seconds: dict[tuple[str, str], float] = {}  # by backend and model
        self._expected: float | None = None  # when, on the clock, a process should be ready; None: none was begun
        self._usual_start = 0.0  # seconds that the last process took until it was ready
        self._sending = anyio.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the device process; None while there is none."""
        return self._process.pid if self._process else None

    @property
    def jobs(self) -> int:
        """Jobs the process holds now."""
        return len(self._pending)

    @property
    def usable(self) -> bool:
        """Whether a process runs or will be started again."""
        return self._unusable is None

    def view(self, model: str, backend: str, *, failures: int = 0) -> DeviceView:
        """What placement has to know before it gives this device a job of a model.

        Args:
            backend: that would run it here.
            failures: faults and lost processes that the job has already had here.
        """
        totals = self.totals
        waiting = list(self._waiting.values())
        running = [pending.job for pending in self._pending.values()]
        done = sum(pending.job.megapixel_steps * pending.fraction for pending in self._pending.values())
        return DeviceView(
            index=self.index,
            failures=failures,
            backlog=sum(job.megapixel_steps for job in (*running, *waiting)) - done,
            pace=totals.megapixel_steps / totals.loop_seconds if totals.loop_seconds else None,
            resident=model in self._resident or any(job.model == model for job in (*running, *waiting)),
            load_seconds=self._load_seconds.get((backend, model)),
            away=self.away,
        )

    @property
    def away(self) -> float:
        """Seconds until it has a process, as far as can be told; 0: it has one, infinity: nobody knows."""
        if self._ready.is_set() or self._expected is None:
            return 0.0
        if self._failed_starts > _FAILED_STARTS:
            return math.inf
        # A process that should be there by now is expected to take as long again as it is late.
        return abs(self._expected - self._clock())

    async def hand_over(self, models: Collection[Model], *, anew: bool = False) -> None:
        """Tell the process, and every later one, which models jobs may ask for; to be done before they are offered.

        Models that were named before stay known.

        Args: anew: tell the process what it should know already, too.
        """
        known = {model.name: model for model in self._configure.models}
        new = [model for model in models if anew or model.name not in known]
        if not new:
            return
        models_now = tuple((known | {model.name: model for model in new}).values())
        self._configure = msgspec.structs.replace(self._configure, models=models_now)
        if self._stream is not None:
            with suppress(DeviceAway):  # its next process is told first of all
                await self._send(frames.Models(models=tuple(new)))

    async def make(self, job: JobSpec, plan: Plan, progress: Callable[[float], None]) -> MadeJob:
        """Run one job to its pixels; cancelling this withdraws the job from the device.

        Raises: JobFailed: the device gave it up. ProcessLost: the process died or hung under it.
            DeviceAway: the process that it waited for did not come in time, or went before it had the job.
            DeviceUnusable: no process can be started. FrameTooLarge: the device would not read what it is to be told.
        """
        run = f"{job.id}/{next(self._runs)}"
        self._waiting[run] = job
        ready = self._ready
        try:
            with anyio.move_on_after(max(job.due - self._clock(), 0.0)):
                await ready.wait()
        finally:
            del self._waiting[run]
        if self._unusable:
            raise self._unusable
        if ready is not self._ready or not ready.is_set():
            raise DeviceAway(f"device {self.index} is starting again")
        if not self._pending:
            self._heard = self._clock()
        pending = self._pending[run] = _Pending(job=job, plan=plan, progress=progress)
        try:
            await self._send(run_frame(run, job, plan), job.source or b"")
            await pending.ended.wait()
        finally:
            del self._pending[run]
            if not isinstance(pending.result, MadeJob | JobFailed | ProcessLost):
                # Cancelled, or ended here by something unforeseen: the device still works on it, unless it is gone.
                with anyio.CancelScope(shield=True), anyio.move_on_after(1.0), suppress(DeviceAway):
                    await self._send(frames.Withdraw(id=run))
        if isinstance(pending.result, MadeJob):
            return pending.result
        assert pending.result is not None  # whoever ends a job says how
        raise pending.result

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep a process alive until cancelled; `started()` once the first one is ready.

        Whatever ends a process, or keeps one from being started, is followed by another one after a wait that grows.

        Raises: DeviceUnusable: a process was lost, and it was asked for no restart.
        """
        lost_in_a_row = 0
        while True:
            lost: BaseException | None = None
            ready, begun = math.inf, self._clock()
            self._expected = begun + self._usual_start
            try:
                async with anyio.create_task_group() as life:
                    await life.start(self._live)
                    self._failed_starts, ready = 0, self._clock()
                    self._usual_start = ready - begun
                    self.tried.set()
                    task_status.started()
                    task_status = anyio.TASK_STATUS_IGNORED
            except* DeviceLost as group:
                lost = first_leaf(group)
            except* Exception as group:  # noqa: BLE001  # as when no process can be made for want of memory or descriptors
                lost = first_leaf(group)
                logger.opt(exception=lost).error("Device {} is lost to an unexpected {}.", self.index, _named(lost))
            self._failed_starts += 1
            lost_in_a_row = 1 if self._clock() - ready >= SOUND_SECONDS else lost_in_a_row + 1
            self._earlier = self.totals
            reason = ProcessLost(f"device {self.index}: {_named(lost)}", self._loss())
            for pending in self._pending.values():
                pending.end(reason)
            if not self._restart:
                self._unusable = DeviceUnusable(f"device {self.index} cannot be started: {_named(lost)}")
                self._ready.set()
                raise self._unusable
            if self._failed_starts > _FAILED_STARTS:
                self.tried.set()
            self.restarts += 1
            wait = self._restart_waits[min(lost_in_a_row, len(self._restart_waits)) - 1]
            self._expected = self._clock() + wait + self._usual_start
            self._ready.set()  # who waited for this process is told that it did not come
            self._ready = anyio.Event()
            jobs = (
                f"After {self._failed_starts} failed starts jobs are not kept for it any more"
                if self._failed_starts > _FAILED_STARTS
                else "Its jobs are replayed"
            )
            logger.warning("Device {}: {}. {}; it is started again in {:g} s.", self.index, _named(lost), jobs, wait)
            await anyio.sleep(wait)

    async def _live(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """One process from start to death; leaves only by DeviceLost or cancellation."""
        started, self._started = self._started or spawn(), None
        process = self._process = started.process
        try:
            async with await SocketStream.from_socket(started.channel) as stream:
                self._stream = stream
                received = BufferedByteReceiveStream(stream)
                await self._send(self._configure)
                try:
                    with anyio.fail_after(self._start_seconds):
                        await self._receive(received)
                except TimeoutError:
                    raise DeviceLost(f"not ready after {self._start_seconds:.0f} s") from None
                self._ready.set()
                logger.info("Device {} is ready (process {}).", self.index, process.pid)
                task_status.started()
                async with anyio.create_task_group() as both:
                    both.start_soon(self._watch_silence)
                    while True:
                        await self._receive(received)
        finally:
            self._stream, self._resident = None, frozenset()
            if self._ready.is_set():
                self._ready = anyio.Event()
            process.kill()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(process.wait)

    async def _receive(self, received: BufferedByteReceiveStream) -> None:
        try:
            header_bytes, body_bytes = frames.sizes(await received.receive_exactly(frames.PREFIX.size))
            header = frames.unpack_from_device(await received.receive_exactly(header_bytes))
            body = await received.receive_exactly(body_bytes) if body_bytes else b""
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise DeviceLost(await self._death()) from error
        self._heard = self._clock()
        try:
            self._heed(header, body)
        except Exception as error:  # it is one job's, whose `make` raises it
            if (pending := self._pending.get(getattr(header, "id", ""))) is None:
                raise
            pending.end(error)

    def _heed(self, header: frames.FromDevice, body: bytes) -> None:
        """Act on a frame."""
        loading = isinstance(header, frames.Loading)
        self._patience = max(self._start_seconds, self._silent_seconds) if loading else self._silent_seconds
        match header:
            case frames.Resident(models=models, load_times=load_times):
                self._resident = frozenset(models)
                self._load_seconds |= {(one.backend, one.model): one.seconds for one in load_times}
            case frames.Totals():
                self.totals = _sum(self._earlier, header)
            case frames.Progress(id=job_id, fraction=fraction) if job_id in self._pending:
                self._pending[job_id].fraction = fraction
                self._pending[job_id].progress(fraction)
            case frames.Pixels(id=job_id) if job_id in self._pending:
                pixels = np.frombuffer(body, np.uint8).reshape(header.height, header.width, 3)
                self._pending[job_id].images[header.index] = pixels
            case frames.Made(id=job_id) if job_id in self._pending:
                pending = self._pending[job_id]
                images = tuple(pending.images[index] for index in sorted(pending.images))
                pending.end(MadeJob(images=images, timing=header))
            case frames.Failed(id=job_id) if job_id in self._pending:
                self._pending[job_id].end(JobFailed(header))

    async def _send(self, header: frames.ToDevice, body: bytes = b"") -> None:
        stream = self._stream
        if stream is None:
            raise DeviceAway(f"device {self.index} is starting again")
        async with self._sending:
            try:
                await stream.send(frames.pack(header, len(body)))
                if body:
                    await stream.send(body)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError) as error:
                raise DeviceAway(f"device {self.index} went away while a job was handed over") from error

    def _loss(self) -> Loss:
        aboard = (
            Passenger(job=pending.job.id, backend=pending.plan.backend, engine=pending.plan.engine)
            for pending in self._pending.values()
            if pending.result is None
        )
        return Loss(device=self.index, at=self._clock(), aboard=frozenset(aboard))

    async def _death(self) -> str:
        """How the process ended, once its end of the socket is closed."""
        process = self._process
        assert process is not None  # frames only come from a process
        code = None
        with anyio.move_on_after(_GRACE_SECONDS):
            code = await anyio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        if code is None:
            return "the process closed its connection and hangs"
        if code == frames.DEVICE_FAULT:
            return "the device reported an error that only another process is rid of; the device's log says which"
        return f"the process was ended by signal {-code}" if code < 0 else f"the process ended with exit status {code}"

    async def _watch_silence(self) -> None:
        while True:
            now = self._clock()
            quiet = now - self._heard if self._pending else 0.0
            if quiet >= self._patience:
                raise DeviceLost(f"no step for {quiet:.0f} s with {self.jobs} job(s) running")
            await anyio.sleep(min(self._patience - quiet, self._silent_seconds))


def _named(error: BaseException | None) -> str:
    """What a process was lost to. `DeviceLost` says it in its message; others are told with their class."""
    return str(error) if isinstance(error, DeviceLost) else f"{type(error).__name__}: {error}"


def _sum(one: frames.Totals, other: frames.Totals) -> frames.Totals:
    return frames.Totals(
        calls=one.calls + other.calls,
        rows=one.rows + other.rows,
        engine_seconds=one.engine_seconds + other.engine_seconds,
        loop_seconds=one.loop_seconds + other.loop_seconds,
        megapixel_steps=one.megapixel_steps + other.megapixel_steps,
    )


def run_frame(run: str, job: JobSpec, plan: Plan) -> frames.Run:
    """What a device is told of a job. Args: run: what it is to call the job; a job that comes twice is two runs."""
    return frames.Run(job=replace(job, id=run, sampler=plan.sampler, source=None), backend=plan.backend)
