"""All the wiring: configuration to devices, transports and the service between them; start, reload and stop."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT, SIGTERM
from time import monotonic

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from loguru import logger

from trt_engines.machine_memory import machine_memory
from trt_engines.model import Model
from trt_engines.rig import DriverFailed, UnknownGpu
from trt_engines.weights import DigestNotes
from trt_worker import frames
from trt_worker.concurrency import first_leaf
from trt_worker.config.reload import follow
from trt_worker.config.schema import Config
from trt_worker.delivery import Settlement
from trt_worker.encode.encoder import Encoder
from trt_worker.errors import ConfigError, DeviceUnusable
from trt_worker.networks import Networks
from trt_worker.plan.devices import plan_rig
from trt_worker.sessions import GuardedSessions
from trt_worker.submit.upload import Uploader
from trt_worker.supervisor.device_link import DeviceLink
from trt_worker.supervisor.maker import JobMaker
from trt_worker.supervisor.newcomers import add_newcomers
from trt_worker.supervisor.offering import DIGESTS, Found, Offering
from trt_worker.supervisor.service import Service
from trt_worker.supervisor.spawn import DeviceProcess
from trt_worker.telemetry.logs import CONTINUED
from trt_worker.telemetry.metrics import JobRecord, Snapshot, Tally
from trt_worker.telemetry.status import status_block

OK, FAILED, BAD_SETUP = 0, 1, 2
NO_CLASSIFIER = (
    "There is no safety classifier in this version: no picture is looked at for what it shows before it leaves. "
    "Jobs of a Horde that demand censoring are handed back; the grid cannot ask for it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSource:
    """Where a running worker looks for changes of its configuration."""

    path: Path
    environ: Mapping[str, str]
    name: str | None
    home: Path


@dataclass(slots=True, kw_only=True)
class Worker:
    """A running worker: what status, tests and benchmarks look at, and how it is told to stop."""

    config: Config
    links: Sequence[DeviceLink]
    service: Service
    tally: Tally
    networks: Networks
    offering: Offering
    stop: anyio.Event = field(default_factory=anyio.Event)
    stopped: anyio.Event = field(default_factory=anyio.Event)
    offering_anew: anyio.Lock = field(default_factory=anyio.Lock)  # a reload and a new model may come at once
    failure: str = ""
    _counted: tuple[int, int] = (0, 0)

    def snapshot(self) -> Snapshot:
        """The tally now, device totals and the state of the networks included."""
        calls = sum(link.totals.calls for link in self.links)
        rows = sum(link.totals.rows for link in self.links)
        self.tally.called(calls=calls - self._counted[0], rows=rows - self._counted[1])
        self._counted = (calls, rows)
        return self.tally.snapshot(monotonic(), [transport.state() for transport in self.networks.transports])


def make_links(
    config: Config,
    models: Collection[Model],
    *,
    log_directory: Path | None,
    verbosity: int,
    started: DeviceProcess | None,
) -> list[DeviceLink]:
    """One link for each device of this rig; no process is started yet.

    Args:
        models: that jobs may ask for at first.
        started: the first device's process, where it was started beforehand.

    Raises: DriverFailed, UnknownGpu.
    """
    plans = plan_rig(config.gpus, config.backends, os.environ)
    own = int(config.memory_share * machine_memory().total / len(plans))
    for plan in plans:
        note = f": {plan.note}" if plan.note else ""
        logger.info("Device {} is {}, with {}{}", plan.index, plan.label, ", then ".join(plan.backends), note)
    return [
        DeviceLink(
            frames.Configure(
                index=plan.index,
                environment=dict(plan.environment),
                sm=plan.sm,
                backends=plan.backends,
                threads=config.threads_per_device or max(1, len(os.sched_getaffinity(0)) // len(plans)),
                max_rows=config.max_batch,
                memory=int(config.memory_share * plan.memory_bytes) if plan.memory_bytes else own,
                machine_memory=own,
                models=tuple(models),
                log_directory=str(log_directory) if log_directory else None,
                verbosity=verbosity,
            ),
            silent_seconds=config.process_timeout,
            restart=not config.exit_on_unhandled_faults,
            started=started if plan.index == 1 else None,
        )
        for plan in plans
    ]


@asynccontextmanager
async def open_worker(
    config: Config,
    *,
    source: ConfigSource | None = None,
    log_directory: Path | None = None,
    verbosity: int = 0,
    started: DeviceProcess | None = None,
    newcomers: bool = False,
) -> AsyncIterator[Worker]:
    """Start devices, then transports; leaving the context drains: every job taken is settled, within the bound.

    Args:
        started: a device process that was started beforehand, to save its start-up time.
        newcomers: whether checkpoints that are no models yet are added in the background, and then offered.

    Raises: ConfigError, DriverFailed, UnknownGpu: before anything is started.
        DeviceUnusable: no device can be started.
    """
    offering = Offering(DigestNotes(log_directory / DIGESTS if log_directory else None))
    found = await anyio.to_thread.run_sync(offering.find, config)
    links = make_links(config, found.models.values(), log_directory=log_directory, verbosity=verbosity, started=started)
    tally = Tally(began=monotonic())
    async with AsyncExitStack() as stack:
        sessions = await stack.enter_async_context(GuardedSessions(auto_decompress=False))

        def offer_changed() -> None:
            service.tell_models_changed()

        maker = JobMaker(
            links,
            max_rows=config.max_batch,
            fell_back=tally.fell_back,
            offer_changed=offer_changed,
            damage=offering.damage,
        )
        service = Service(
            models=found.models,
            maker=maker,
            encoder=Encoder(),
            uploader=Uploader(sessions),
            tally=tally,
            depth=_depth(config, len(links)),
            finished=announce,
            withdrawn=lambda: maker.health.withdrawn,
        )
        _withhold_damaged(found, maker)
        networks = Networks(service, service.serve, len(links))
        worker = Worker(config=config, links=links, service=service, tally=tally, networks=networks, offering=offering)
        if config.metrics_port:
            from trt_worker.telemetry.exporter import serve_metrics  # brings a web server: only when asked for

            await stack.enter_async_context(serve_metrics(worker.snapshot, config.metrics_port))
        async with anyio.create_task_group() as devices:
            await start_devices(devices, links)
            async with anyio.create_task_group() as side:
                side.start_soon(_show_status, worker)
                side.start_soon(_warn_without_jobs, worker)
                side.start_soon(maker.health.run)
                if source is not None:
                    side.start_soon(_follow_config, worker, source)
                if newcomers:
                    side.start_soon(_add_newcomers, worker)
                async with anyio.create_task_group() as intake:
                    intake.start_soon(_take_jobs, worker)
                    try:
                        yield worker
                    finally:
                        worker.stop.set()
                        seconds = worker.config.drain_seconds
                        with anyio.move_on_after(seconds) as drain:  # a second signal cancels this too
                            await worker.stopped.wait()
                        if drain.cancelled_caught:
                            logger.error(
                                "{} job(s) were not finished within {:.0f} s; they go back to the network.",
                                service.jobs,
                                seconds,
                            )
                        intake.cancel_scope.cancel()
                side.cancel_scope.cancel()
            devices.cancel_scope.cancel()


async def run(
    config: Config, *, source: ConfigSource | None, log_directory: Path, verbosity: int, started: DeviceProcess
) -> int:
    """Serve until SIGINT or SIGTERM, then drain; a second signal stops at once. Returns the exit status."""
    failure, status = "", FAILED
    logger.warning(NO_CLASSIFIER)
    try:
        async with anyio.create_task_group() as both:
            with anyio.open_signal_receiver(SIGINT, SIGTERM) as signals:
                async with open_worker(
                    config,
                    source=source,
                    log_directory=log_directory,
                    verbosity=verbosity,
                    started=started,
                    newcomers=True,
                ) as worker:
                    both.start_soon(_obey_signals, signals, worker, both.cancel_scope)
                    await worker.stop.wait()
                    logger.info("Stopping: {} job(s) are finished first.", worker.service.jobs)
                failure = worker.failure
                both.cancel_scope.cancel()
    except* (ConfigError, DriverFailed, UnknownGpu) as group:
        failure, status = str(first_leaf(group)), BAD_SETUP
    except* DeviceUnusable as group:
        failure = str(first_leaf(group))
    if failure:
        logger.critical("{}", failure)
    return status if failure else OK


async def start_devices(group: TaskGroup, links: Sequence[DeviceLink]) -> None:
    """Start all devices; return once one of them is ready and each of the others is ready or has failed to be, often.

    One that fails leaves its jobs to the others. DeviceUnusable ends the group when the last one must not be started
    again; otherwise all of them are tried for as long as it takes.
    """
    first_ready = anyio.Event()

    async def keep(link: DeviceLink) -> None:
        try:
            await link.run(task_status=_Ready(first_ready))
        except DeviceUnusable as error:
            link.tried.set()
            if not any(other.usable for other in links):
                raise
            logger.error("{} The other devices go on.", error)

    for link in links:
        group.start_soon(keep, link)
    for link in links:
        await link.tried.wait()
    if not first_ready.is_set():
        logger.error("No device can be started; see the errors above. No job is taken until one can.")
    await first_ready.wait()


@dataclass(frozen=True, slots=True)
class _Ready:
    """Sets an event when a task has started."""

    event: anyio.Event

    def started(self, value: None = None) -> None:
        self.event.set()


async def _obey_signals(signals: AsyncIterator[object], worker: Worker, scope: anyio.CancelScope) -> None:
    await anext(signals)
    worker.stop.set()
    await anext(signals)
    logger.warning("Stopping at once; unfinished jobs go back to the network.")
    scope.cancel()


async def _take_jobs(worker: Worker) -> None:
    """Work for the networks until stopped, or until none of them is left."""
    try:
        try:
            worker.networks.start(worker.config)
        except ConfigError as error:
            worker.failure = str(error)
            return
        async with anyio.create_task_group() as both:
            both.start_soon(_stop_taking_when_told, worker)
            await worker.networks.run()
            both.cancel_scope.cancel()
        if not worker.stop.is_set():
            worker.failure = "No network is left to work for; see the errors above."
    finally:
        worker.stop.set()
        worker.stopped.set()


async def _stop_taking_when_told(worker: Worker) -> None:
    await worker.stop.wait()
    worker.networks.stop_taking()


async def _show_status(worker: Worker) -> None:
    while True:
        await anyio.sleep(worker.config.stats_output_frequency or 30.0)
        if worker.config.stats_output_frequency:
            width = min(shutil.get_terminal_size((100, 24)).columns, 120) - len(CONTINUED)
            lines = status_block(worker.snapshot(), width, advise=not worker.config.suppress_speed_warnings)
            logger.success("Status\n{}", "\n".join(lines))


async def _warn_without_jobs(worker: Worker) -> None:
    """One warning per dry spell of the configured length."""
    while True:
        minutes, known = worker.config.minutes_allowed_without_jobs, worker.tally.snapshot(monotonic()).jobs
        await anyio.sleep(60 * (minutes or 60))
        if minutes and worker.tally.snapshot(monotonic()).jobs == known and not worker.service.jobs:
            logger.warning("No job for {} minutes. `trt-worker doctor` shows what is offered.", minutes)


async def _follow_config(worker: Worker, source: ConfigSource) -> None:
    changes = follow(source.path, worker.config, environ=source.environ, name=source.name, home=source.home)
    async with aclosing(changes):
        async for reload in changes:
            worker.config = reload.config
            worker.service.maker.health.retry()
            await _offer(worker)
            worker.service.depth = _depth(reload.config, len(worker.links))
            worker.networks.adopt(reload.config)


async def _add_newcomers(worker: Worker) -> None:
    async def added() -> None:
        await _offer(worker)

    await add_newcomers(worker.config, added)


async def _offer(worker: Worker) -> None:
    """Offer what the configuration names and the disk has now."""
    async with worker.offering_anew:
        found = await anyio.to_thread.run_sync(worker.offering.find, worker.config)
        for link in worker.links:  # first of all: what is offered, every device knows
            await link.hand_over(found.models.values())
        _withhold_damaged(found, worker.service.maker)
        worker.service.offer(found.models)


def _withhold_damaged(found: Found, maker: JobMaker) -> None:
    for name, damage in found.damaged.items():
        maker.health.withhold(found.models[name], damage)


def _depth(config: Config, devices: int) -> int:
    """Images that are taken ahead of the devices, those that run included."""
    return devices * config.max_batch * (1 + config.queue_size) + config.max_threads - 1


def announce(record: JobRecord) -> None:
    """The line operators know, one per job; a success only where the network took the result."""
    seconds = record.acknowledged - record.received
    tell = logger.success if record.settlement in {Settlement.PAID, Settlement.UNPAID} else logger.warning
    tell(
        "Job {} ({}, {}x{}, {} steps, {} image(s)) {}: {:.2f} {} after {:.1f} s on {}",
        record.id[:8],
        record.model,
        record.width,
        record.height,
        record.steps,
        record.images,
        record.settlement.value,
        record.reward,
        record.unit or "-",
        seconds,
        record.backend or "no backend",
    )
