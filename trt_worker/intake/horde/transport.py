"""Work from a Horde: pop, translate, offer, and see every job through to its receipt."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp
import anyio
from anyio.abc import ObjectSendStream, TaskGroup, TaskStatus
from loguru import logger
from yarl import URL

from trt_engines.model import Model
from trt_worker.concurrency import Backoff, Clock, StartedOnce, Stop, first_leaf
from trt_worker.delivery import Offer, handed_back
from trt_worker.errors import BadJob, TransportClosed, TransportError, UnservableJob
from trt_worker.intake.horde.client import Answer, HordeClient
from trt_worker.intake.horde.delivery import NAME, HordeDelivery, Upward, upload_slots
from trt_worker.intake.horde.ledger import HordeStats, Ledger
from trt_worker.intake.horde.messages import (
    MOST_REFERENCE,
    Metadata,
    Popped,
    WorkerMessage,
    pop_request,
    read_pop,
    read_user,
    read_worker,
)
from trt_worker.intake.horde.pace import LONGEST_RETRY_WAIT, Pace
from trt_worker.intake.horde.reactions import Endpoint, Reaction, Verdict, react
from trt_worker.intake.horde.settings import FIXED, HordeSettings
from trt_worker.intake.horde.source import fetch_source
from trt_worker.intake.horde.translate import expires, to_job, with_source
from trt_worker.intake.transport import Gate, check_adoptable
from trt_worker.job import JobSpec
from trt_worker.network_state import NetworkState
from trt_worker.sampler_names import run_as
from trt_worker.sessions import open_guarded_session, open_session

SWEEP_SECONDS = 60.0
"""The server looks for jobs that ran out of time this often; until then it still takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lines:
    """What a running transport talks through."""

    sources: aiohttp.ClientSession  # to where customers' images are
    client: HordeClient
    offers: ObjectSendStream[Offer]
    jobs: TaskGroup  # one task per job, from pop to receipt


class HordeTransport:
    """One worker name on one Horde; `run` it once.

    Args:
        clock: that pops are paced by.
    """

    name = NAME

    def __init__(self, settings: HordeSettings, gate: Gate, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._gate = gate
        self._clock = clock or Clock()
        self._host = URL(settings.base_url).host or ""
        self._ledger = Ledger()
        self._upward = Upward(ledger=self._ledger, fault=self._hold_after_fault, fatal=self._close, ended=gate.ended)
        self._pace = Pace(
            first_idle_wait=settings.first_idle_wait,
            longest_idle_wait=settings.longest_idle_wait,
            first_retry_wait=settings.first_retry_wait,
        )
        self._turn = anyio.Lock()
        self._reserved = 0  # images that pops under way may bring, or that came and are not in the queue yet
        self._released = anyio.Event()
        self._stop = Stop()
        self._closed_because = ""
        self._shown: set[str] = set()  # messages that the operator has seen
        self._answers = False  # whether the last call had an answer that was no refusal
        self._comebacks = -1  # how often it had one after none; the first time is none
        self._under_way = 0  # jobs

    async def run(
        self, offers: ObjectSendStream[Offer], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Take jobs until `stop_taking`, then return once every job taken has its receipt.

        Calls `task_status.started()` once the server knows us, or once it is clear that we keep trying.

        Raises: TransportClosed: the key, name or account is refused, or the server has retired this API.
        """
        async with open_session() as session, open_guarded_session(self._host) as sources:
            client = HordeClient(session, self._settings)
            await self._sign_in(client, StartedOnce(task_status))
            async with anyio.create_task_group() as jobs:
                lines = _Lines(sources=sources, client=client, offers=offers, jobs=jobs)
                for _ in range(self._settings.open_pops):
                    jobs.start_soon(self._take_jobs, lines)
        if self._closed_because:
            raise TransportClosed(f"Horde {self._host}: {self._closed_because}")

    def stop_taking(self) -> None:
        """Take no further job; a pop under way is still waited for, as it may bring one."""
        self._stop.request()

    def adopt(self, settings: HordeSettings) -> None:
        """Go on with other settings, from the next pop on.

        Raises: ConfigError: they differ in what this worker is to the server.
        """
        check_adoptable(self._settings, settings, FIXED)
        self._settings = settings

    def stats(self) -> HordeStats:
        """A snapshot for the console and the metrics."""
        return self._ledger.stats()

    def state(self) -> NetworkState:
        """How it stands with the Horde now. There is no connection to keep: one is counted while the server answers."""
        stats = self._ledger.stats()
        held_back = ", ".join(f"{reason} {count}" for reason, count in stats.skipped.items())
        notes = (
            stats.maintenance and f"in maintenance: {stats.maintenance}",
            stats.drops_this_hour and f"{stats.drops_this_hour} images dropped within the hour",
            held_back and f"requests held back: {held_back}",
        )
        return NetworkState(
            network=self.name,
            connections=1,
            connected=int(self._answers),
            busy=self._under_way,
            reconnects=max(self._comebacks, 0),
            lost={self._settings.worker_name: self._closed_because} if self._closed_because else {},
            notes=[note for note in notes if note],
        )

    # Signing in

    async def _sign_in(self, client: HordeClient, ready: StartedOnce) -> None:
        answer = await self._insist(Endpoint.FIND_USER, client.find_user, ready)
        if answer is None:
            return
        try:
            user = self._ledger.user = read_user(answer.body)
        except TransportError as error:
            logger.warning("Horde {}: {}; going on without knowing the account", self._host, error)
        else:
            if user.flagged:
                raise TransportClosed(
                    f"Horde {self._host}: the account {user.username} is flagged; talk to the Horde's staff"
                )
            logger.info(
                "Horde {}: signed in as {} with {:.0f} kudos, as worker {!r}",
                self._host,
                user.username,
                user.kudos or 0.0,
                self._settings.worker_name,
            )
        if self._settings.remove_maintenance_on_init:
            await self._leave_maintenance(client, ready)
        ready.tell()

    async def _leave_maintenance(self, client: HordeClient, ready: StartedOnce) -> None:
        name = self._settings.worker_name
        answer = await self._insist(Endpoint.WORKER, lambda: client.find_worker(name), ready)
        if answer is None:
            return  # a new worker, or we are told to stop
        try:
            worker = read_worker(answer.body)
        except TransportError as error:
            logger.warning("Horde {}: {}; maintenance is left as it is", self._host, error)
            return
        if worker.maintenance_mode:
            done = await self._insist(Endpoint.WORKER, lambda: client.set_maintenance(worker.id, wanted=False), ready)
            if done is not None:
                logger.info("Horde {}: took worker {!r} out of maintenance", self._host, name)

    async def _insist(
        self, endpoint: Endpoint, call: Callable[[], Awaitable[Answer]], ready: StartedOnce
    ) -> Answer | None:
        """The answer to a call, tried until there is one; None: the server will not have it, or we are stopping."""
        backoff = Backoff(self._settings.first_retry_wait, LONGEST_RETRY_WAIT)
        while not self._stop.requested:
            answer, reaction = await _ask(endpoint, call)
            if reaction.verdict is Verdict.DONE:
                return answer
            if reaction.verdict is Verdict.FATAL:
                raise TransportClosed(f"Horde {self._host}: {reaction.sentence}")
            if reaction.verdict is Verdict.DROP:
                logger.info("Horde {}: {}", self._host, reaction.sentence)
                return None
            wait = reaction.seconds or backoff.next_wait()
            logger.warning("Horde {}: {}; next try in {:.1f} s", self._host, reaction.sentence, wait)
            ready.tell()
            with self._stop.ends():
                await anyio.sleep(wait)
        ready.tell()
        return None

    # Taking jobs

    async def _take_jobs(self, lines: _Lines) -> None:
        """Pop until told to stop. Whatever goes wrong with one pop is said, and the next one waits for a while."""
        while not self._stop.requested:
            try:
                await self._take_turns(lines)
                return
            except Exception as error:  # noqa: BLE001  # said here
                cause = first_leaf(error)
                logger.opt(exception=cause).error("Horde {}: an unexpected {}", self._host, type(cause).__name__)
                self._refused(Reaction(verdict=Verdict.RETRY, sentence=f"an unexpected {type(cause).__name__}"))

    async def _take_turns(self, lines: _Lines) -> None:
        while not self._stop.requested:
            async with self._turn:
                amount = 0
                with self._stop.ends():
                    amount = await self._room()
                if not amount:
                    return
                probing = self._pace.probing
                if probing:  # one pop is enough to find out whether work has come: the others wait for their turn
                    await self._pop(amount, lines)
            if not probing:
                await self._pop(amount, lines)

    async def _room(self) -> int:
        """Images the next pop may ask for, reserved, once it may leave."""
        while True:
            await self._clock.sleep(max(self._pace.not_before - self._clock.now(), 0.0))
            await self._gate.wait_for_room()
            room = self._gate.room()
            if room <= 0 or self._clock.now() < self._pace.not_before:
                continue
            if room <= self._reserved:
                await self._released.wait()
            elif not self._gate.models_served():
                self._pace.nothing(self._clock.now())  # a pop without models would be refused for good
            else:
                amount = min(room - self._reserved, self._settings.max_batch)
                self._reserved += amount
                return amount

    def _release(self, images: int) -> None:
        self._reserved -= images
        self._released.set()
        self._released = anyio.Event()

    async def _pop(self, amount: int, lines: _Lines) -> None:
        """One pop; the job it brings, if any, goes to a task of its own and takes the reservation along."""
        asked = time.monotonic()
        kept = 0
        try:
            models = self._gate.models_served()  # others may be served when the answer comes
            request = pop_request(self._settings, list(models), amount)
            answer, reaction = await _ask(Endpoint.POP, lambda: lines.client.pop(request))
            if answer is None or reaction.verdict is not Verdict.DONE:
                self._refused(reaction)
                return
            try:
                popped = read_pop(answer.body)
            except TransportError as error:
                self._refused(Reaction(verdict=Verdict.RETRY, sentence=str(error)))
                return
            self._answered(popped)
            if popped.ids:
                kept = len(popped.ids)
                self._reserved += kept
                lines.jobs.start_soon(self._see_through, popped, models, asked, lines)
        finally:
            self._release(amount)

    def _answered(self, popped: Popped) -> None:
        self._comebacks += not self._answers
        self._answers = True
        if self._ledger.maintenance:
            self._ledger.maintenance = ""
            logger.info("Horde {}: no longer in maintenance", self._host)
        self._show(popped.messages)
        if popped.ids:
            self._ledger.popped()
            self._pace.job()
            return
        self._pace.nothing(self._clock.now())
        if popped.skipped != self._ledger.skipped:
            reasons = ", ".join(f"{reason} {count}" for reason, count in popped.skipped.items()) or "none"
            logger.info("Horde {}: no job available (requests held back: {})", self._host, reasons)
        self._ledger.skipped = popped.skipped

    def _refused(self, reaction: Reaction) -> None:
        self._answers = False
        now = self._clock.now()
        if reaction.verdict is Verdict.FATAL:
            self._close(reaction.sentence)
        elif reaction.verdict is Verdict.MAINTENANCE:
            self._pace.hold(now, self._settings.maintenance_wait)
            if reaction.sentence != self._ledger.maintenance:
                logger.warning(
                    "Horde {}: this worker is in maintenance: {} (only jobs of its own account come; end it on the "
                    "Horde's web page, or start with remove_maintenance_on_init)",
                    self._host,
                    reaction.sentence,
                )
            self._ledger.maintenance = reaction.sentence
        else:
            wait = reaction.seconds or self._pace.failure(now)
            self._pace.hold(now, wait)
            logger.warning("Horde {}: {}; next pop in {:.1f} s", self._host, reaction.sentence, wait)

    def _show(self, messages: tuple[WorkerMessage, ...]) -> None:
        """Messages come with every pop for hours; each is shown once."""
        for message in messages:
            if message.id not in self._shown:
                self._shown.add(message.id)
                logger.warning("Horde {}: message from {}: {}", self._host, message.origin or "staff", message.message)

    # One job

    async def _see_through(self, popped: Popped, models: Mapping[str, Model], asked: float, lines: _Lines) -> None:
        self._under_way += 1
        try:
            await self._keep_at(popped, models, asked, lines)
        finally:
            self._under_way -= 1

    async def _keep_at(self, popped: Popped, models: Mapping[str, Model], asked: float, lines: _Lines) -> None:
        """One job, from its pop to its receipt: whatever that throws hands the job back, and no other."""
        delivery = self._way_back(popped, asked, lines)
        try:
            try:
                delivery = await self._passed_on(popped, models, asked, lines)
            except Exception as error:  # noqa: BLE001  # logged there
                await handed_back(popped.ids[0], delivery, error)
        finally:
            self._release(len(popped.ids))
        try:
            with anyio.move_on_after(expires(popped.job, asked) + SWEEP_SECONDS - time.monotonic()):
                await delivery.closed.wait()
        except Exception as error:  # noqa: BLE001  # said here; the job goes on, and is only not watched any more
            logger.opt(exception=error).error(
                "Horde {}: job {} is not watched any more after an unexpected {}",
                self._host,
                popped.ids[0],
                type(error).__name__,
            )
            return
        if not delivery.closed.is_set():
            logger.warning("Horde {}: job {} ran out of time; the server has aborted it", self._host, popped.ids[0])
            delivery.give_up()

    async def _passed_on(
        self, popped: Popped, models: Mapping[str, Model], asked: float, lines: _Lines
    ) -> HordeDelivery:
        """Offer a job, or hand it back where it cannot be understood. Returns: its way back."""
        try:
            job, metadata = await self._understood(popped, models, asked, lines.sources)
        except BadJob as error:
            logger.warning("Horde {}: {}; handed back as faulted", self._host, error)
            delivery = self._way_back(popped, asked, lines)
            await delivery.fail(BadJob.public)
        else:
            delivery = self._way_back(popped, asked, lines, job, metadata)
            await self._offer(job, delivery, lines.offers)
        return delivery

    def _way_back(
        self,
        popped: Popped,
        asked: float,
        lines: _Lines,
        job: JobSpec | None = None,
        metadata: tuple[Metadata, ...] = (),
    ) -> HordeDelivery:
        """Args: see `HordeDelivery`."""
        return HordeDelivery(
            ids=popped.ids,
            model=(popped.job.model if popped.job is not None else None) or "",
            job=job,
            slots=upload_slots(popped.job, popped.ids) if popped.job is not None else (None,) * len(popped.ids),
            metadata=metadata,
            asked=asked,
            expires=expires(popped.job, asked),
            first_retry_wait=self._settings.first_retry_wait,
            client=lines.client,
            upward=self._upward,
        )

    async def _understood(
        self, popped: Popped, models: Mapping[str, Model], asked: float, sources: aiohttp.ClientSession
    ) -> tuple[JobSpec, tuple[Metadata, ...]]:
        """The job, and what its submits have to mention. Raises: BadJob: it cannot or must not be run."""
        if popped.job is None:
            raise BadJob(popped.problem)
        job = to_job(
            popped.job,
            popped.ids,
            models,
            received=time.monotonic(),
            asked=asked,
            due_margin=self._settings.due_margin,
        )
        metadata: tuple[Metadata, ...] = ()
        if popped.job.source_image is not None:
            fetched = await fetch_source(sources, popped.job.source_image, self._settings)
            if isinstance(fetched, Metadata):
                metadata = (fetched,)
            else:
                job = with_source(job, popped.job, fetched)
        _, stand_in = run_as(job.sampler)
        if stand_in:
            metadata = (*metadata, Metadata(type="information", value="see_ref", ref=stand_in[:MOST_REFERENCE]))
        reason = self._gate.refusal(job)
        if reason is not None:
            raise UnservableJob(f"job {job.id} is refused: {reason}")
        return job, metadata

    async def _offer(self, job: JobSpec, delivery: HordeDelivery, offers: ObjectSendStream[Offer]) -> None:
        try:
            with anyio.fail_after(max(job.due - time.monotonic(), 0.0)):
                await offers.send(Offer(job=job, delivery=delivery, transport=self.name, network=self._host))
            delivery.offered = True
        except TimeoutError:
            logger.warning("Horde {}: job {} found no place in the queue in time", self._host, job.id)
            await delivery.fail(BadJob.public)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.stop_taking()  # nobody takes jobs any more: the worker is going down
            await delivery.fail(BadJob.public)

    # Shared by all of it

    def _hold_after_fault(self) -> None:
        self._pace.hold(self._clock.now(), self._ledger.hold_after_fault(self._settings.fault_hold))

    def _close(self, sentence: str) -> None:
        self._closed_because = self._closed_because or sentence
        self.stop_taking()


async def _ask(endpoint: Endpoint, call: Callable[[], Awaitable[Answer]]) -> tuple[Answer | None, Reaction]:
    try:
        answer = await call()
    except TransportError as error:
        return None, Reaction(verdict=Verdict.RETRY, sentence=str(error))
    return answer, react(endpoint, answer.status, answer.body, answer.retry_after)
