"""All the wiring: configuration to devices, transports and the service between them; start, reload and stop."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT, SIGTERM
from time import monotonic

import aiohttp
import anyio
from anyio.abc import ObjectSendStream, TaskGroup
from loguru import logger

from trt_engines.errors import ModelUnusable
from trt_engines.machine_memory import machine_memory
from trt_engines.model import Model, find_models
from trt_engines.rig import DriverFailed, UnknownGpu
from trt_worker import AGENT_NAME, __version__
from trt_worker.concurrency import cancel_when, first_leaf
from trt_worker.config.models import resolve_models
from trt_worker.config.reload import follow
from trt_worker.config.schema import Config
from trt_worker.delivery import Offer
from trt_worker.encode.encoder import Encoder
from trt_worker.errors import ConfigError, DeviceUnusable, TransportClosed
from trt_worker.intake.transport import Gate, Transport
from trt_worker.plan.devices import plan_rig
from trt_worker.runtime import frames
from trt_worker.runtime.device_link import DeviceLink
from trt_worker.runtime.maker import JobMaker
from trt_worker.runtime.service import Service
from trt_worker.runtime.spawn import DeviceProcess
from trt_worker.submit.upload import Uploader
from trt_worker.telemetry.metrics import JobRecord, Snapshot, Tally
from trt_worker.telemetry.status import status_block

PROJECT_URL = "https://github.com/AIPowerGrid/trt-worker"
OK, FAILED, BAD_SETUP = 0, 1, 2
_RECONNECT_SECONDS = 10.0
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
    stop: anyio.Event = field(default_factory=anyio.Event)
    changed: anyio.Event = field(default_factory=anyio.Event)
    stopped: anyio.Event = field(default_factory=anyio.Event)
    failure: str = ""
    _counted: tuple[int, int] = (0, 0)

    def snapshot(self) -> Snapshot:
        """The tally now, device totals included."""
        calls = sum(link.totals.calls for link in self.links)
        rows = sum(link.totals.rows for link in self.links)
        self.tally.called(calls=calls - self._counted[0], rows=rows - self._counted[1])
        self._counted = (calls, rows)
        return self.tally.snapshot(monotonic())


def make_transports(config: Config, gate: Gate, devices: int) -> Sequence[Transport]:
    """The transports a configuration asks for, to keep a number of devices busy.

    Only those are imported, as that is felt when the worker starts.
    """
    transports: list[Transport] = []
    key = config.api_key.get_secret_value()
    agent = config.bridge_agent or f"{AGENT_NAME}:{__version__}:{PROJECT_URL}"
    if "grid" in config.networks:
        from trt_worker.intake.grid.pool import GridTransport
        from trt_worker.intake.grid.settings import GridSettings, trusting

        transports.append(
            GridTransport(
                GridSettings(
                    url=config.grid_url,
                    http_url=config.grid_http_url,
                    api_key=key,
                    name=config.dreamer_name,
                    connections=config.connections(devices),
                    bridge_agent=agent,
                    ack_seconds=config.ack_seconds,
                    allow_img2img=config.allow_img2img,
                    identity_key_file=config.worker_identity_key_file,
                    delegations_file=config.worker_delegations_file,
                    ssl_context=trusting(config.grid_url, config.grid_ca_file),
                ),
                gate,
            )
        )
    if "horde" in config.networks:
        from trt_worker.intake.horde.settings import HordeSettings
        from trt_worker.intake.horde.transport import HordeTransport

        transports.append(
            HordeTransport(
                HordeSettings(
                    url=config.horde_url,
                    api_key=key,
                    worker_name=config.dreamer_name,
                    bridge_agent=agent,
                    max_power=config.max_power,
                    max_batch=config.max_batch,
                    threads=config.max_threads,
                    nsfw=config.nsfw,
                    blacklist=config.blacklist,
                    priority_usernames=config.priority_usernames,
                    allow_img2img=config.allow_img2img,
                    allow_unsafe_ipaddr=config.allow_unsafe_ip,
                    require_upfront_kudos=config.require_upfront_kudos,
                    extra_slow_worker=config.extra_slow_worker,
                    limit_max_steps=config.limit_max_steps,
                    wallet_address=config.wallet_address,
                    remove_maintenance_on_init=config.remove_maintenance_on_init,
                ),
                gate,
            )
        )
    return transports


def make_links(
    config: Config, *, log_directory: Path | None, verbosity: int, started: DeviceProcess | None
) -> list[DeviceLink]:
    """One link for each device of this rig; no process is started yet.

    Args:
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
                model_folders=(str(config.cache_home),),
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
) -> AsyncIterator[Worker]:
    """Start devices, then transports; leaving the context drains: every job taken is settled, within the bound.

    Args:
        started: a device process that was started beforehand, to save its start-up time.

    Raises: ConfigError, ModelUnusable, DriverFailed, UnknownGpu: before anything is started.
        DeviceUnusable: no device can be started.
    """
    models = offered_models(config)
    links = make_links(config, log_directory=log_directory, verbosity=verbosity, started=started)
    tally = Tally(began=monotonic())
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        maker = JobMaker(links, max_rows=config.max_batch, fell_back=tally.fell_back)
        service = Service(
            models=models,
            maker=maker,
            encoder=Encoder(),
            uploader=Uploader(session),
            tally=tally,
            depth=_depth(config, len(links)),
            finished=_announce,
        )
        worker = Worker(config=config, links=links, service=service, tally=tally)
        if config.metrics_port:
            from trt_worker.telemetry.exporter import serve_metrics  # brings a web server: only when asked for

            await stack.enter_async_context(serve_metrics(worker.snapshot, config.metrics_port))
        async with anyio.create_task_group() as devices:
            await start_devices(devices, links)
            async with anyio.create_task_group() as side:
                side.start_soon(_show_status, worker)
                side.start_soon(_warn_without_jobs, worker)
                if source is not None:
                    side.start_soon(_follow_config, worker, source)
                async with anyio.create_task_group() as intake:
                    intake.start_soon(_take_jobs, worker)
                    try:
                        yield worker
                    finally:
                        worker.stop.set()
                        with anyio.move_on_after(config.drain_seconds) as drain:  # a second signal cancels this too
                            await worker.stopped.wait()
                        if drain.cancelled_caught:
                            logger.error(
                                "{} job(s) were not finished within {:.0f} s; they go back to the network.",
                                service.jobs,
                                config.drain_seconds,
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
                    config, source=source, log_directory=log_directory, verbosity=verbosity, started=started
                ) as worker:
                    both.start_soon(_obey_signals, signals, worker, both.cancel_scope)
                    await worker.stop.wait()
                    logger.info("Stopping: {} job(s) are finished first.", worker.service.jobs)
                failure = worker.failure
                both.cancel_scope.cancel()
    except* (ConfigError, ModelUnusable, DriverFailed, UnknownGpu) as group:
        failure, status = str(first_leaf(group)), BAD_SETUP
    except* DeviceUnusable as group:
        failure = str(first_leaf(group))
    if failure:
        logger.critical("{}", failure)
    return status if failure else OK


def offered_models(config: Config) -> dict[str, Model]:
    """The models that a configuration offers and this rig has, by name."""
    available = find_models((config.cache_home,))
    names, notes = resolve_models(config.models_to_load, config.models_to_skip, available)
    for note in notes:
        logger.warning("{}", note)
    return {name: available[name] for name in names}


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
    """Run the transports; anew after a change of the configuration, until stopped."""
    try:
        while not worker.stop.is_set():
            worker.changed = anyio.Event()
            try:
                made = make_transports(worker.config, worker.service, len(worker.links))
            except ConfigError as error:
                worker.failure = str(error)
                worker.stop.set()
                return
            alive = await _run_transports(worker, made)
            if not alive and not worker.changed.is_set() and not worker.stop.is_set():
                worker.failure = "No network is left to work for; see the errors above."
                worker.stop.set()
    finally:
        worker.stopped.set()


async def _run_transports(worker: Worker, transports: Sequence[Transport]) -> list[Transport]:
    """One life of the transports, from start to the last receipt. Returns those that were not closed for good."""
    alive = list(transports)
    offers_in, offers_out = anyio.create_memory_object_stream[Offer](0)

    async def one(transport: Transport, offers: ObjectSendStream[Offer]) -> None:
        async with offers:
            try:
                await transport.run(offers)
            except TransportClosed as closed:
                alive.remove(transport)
                logger.error("{}: {}", transport.name, closed)
            except Exception as error:  # noqa: BLE001  # said here; no other network's jobs are worth less for it
                cause = first_leaf(error)
                logger.opt(exception=cause).error(
                    "{}: an unexpected {}; all networks are connected anew in {:.0f} s, after the jobs under way",
                    transport.name,
                    type(cause).__name__,
                    _RECONNECT_SECONDS,
                )
                await anyio.sleep(_RECONNECT_SECONDS)
                worker.changed.set()

    async def tap() -> None:
        async with anyio.create_task_group() as either:
            for event in (worker.stop, worker.changed):
                either.start_soon(cancel_when, event, either.cancel_scope)
        for transport in transports:
            transport.stop_taking()

    async with anyio.create_task_group() as life:
        life.start_soon(tap)
        async with anyio.create_task_group() as jobs:
            for transport in transports:
                jobs.start_soon(one, transport, offers_in.clone())
            offers_in.close()
            async with offers_out:
                async for offer in offers_out:
                    jobs.start_soon(worker.service.serve, offer)
        life.cancel_scope.cancel()
    return alive


async def _show_status(worker: Worker) -> None:
    while True:
        await anyio.sleep(worker.config.stats_output_frequency or 30.0)
        if worker.config.stats_output_frequency:
            width = min(shutil.get_terminal_size((100, 24)).columns, 120)
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
            try:
                models = offered_models(reload.config)
            except ModelUnusable as error:
                logger.error("{} The models offered stay as they are.", error)
                models = dict(worker.service.models)
            worker.config = reload.config
            worker.service.models, worker.service.depth = models, _depth(reload.config, len(worker.links))
            if reload.applied:
                worker.changed.set()


def _depth(config: Config, devices: int) -> int:
    """Images that are taken ahead of the devices, those that run included."""
    return devices * config.max_batch * (1 + config.queue_size) + config.max_threads - 1


def _announce(record: JobRecord) -> None:
    """The line operators know, one per job."""
    seconds = record.acknowledged - record.received
    logger.success(
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
