"""One life of a connection: from its registration to its end, one job at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import aiohttp
import anyio
from anyio.abc import ObjectSendStream, TaskGroup
from loguru import logger

from trt_engines.model import Model
from trt_engines.text import shown
from trt_worker.concurrency import cancel_when
from trt_worker.delivery import IntakeEnd, Offer, Receipt, Settlement, handed_back
from trt_worker.errors import BadJob
from trt_worker.intake.grid import frames
from trt_worker.intake.grid.catalogue import Catalogue
from trt_worker.intake.grid.delegation import Delegations
from trt_worker.intake.grid.delivery import UNIT, GridDelivery
from trt_worker.intake.grid.graph import UnreadableRecipe
from trt_worker.intake.grid.ledger import Ledger
from trt_worker.intake.grid.presence import Presence
from trt_worker.intake.grid.renewals import Renewals
from trt_worker.intake.grid.settings import GridSettings
from trt_worker.intake.grid.signer import RigKey
from trt_worker.intake.grid.translate import MOST_PIXELS, Draft, find_model, to_draft, with_source
from trt_worker.intake.source_image import fetch_source_image, measure_source_image
from trt_worker.intake.transport import Gate
from trt_worker.job import MAX_ID_CHARACTERS, JobSpec

TRANSPORT = "grid"


class Leaving(StrEnum):
    """Why we ended a session ourselves."""

    STOP = "stop"  # no further job is taken
    RENEW = "renew"  # other models are offered now
    REFUSED = "refused"  # a job must go to somebody else: closing gives it back


@dataclass(slots=True, kw_only=True)
class Shop:
    """What all connections share."""

    settings: GridSettings  # replaced by others while it runs; read anew wherever it is used
    gate: Gate
    catalogue: Catalogue
    ledger: Ledger
    presence: Presence
    renewals: Renewals
    http: aiohttp.ClientSession  # to the grid
    sources: aiohttp.ClientSession  # to where customers' images are
    host: str  # the grid's own
    offers: ObjectSendStream[Offer]
    signer: RigKey | None
    delegations: Delegations | None
    stop: Callable[[], None]  # nobody takes offers any more


class Session:
    """A registered socket; `run` returns when it is over."""

    def __init__(
        self, name: str, socket: aiohttp.ClientWebSocketResponse, models: Mapping[str, Model], shop: Shop
    ) -> None:
        """
        Args:
            models: what it was registered with, by name.
        """
        self.leaving: Leaving | None = None
        self.took_jobs = False
        self._name = name
        self._socket = socket
        self._models = models
        self._shop = shop
        self._current: GridDelivery | None = None
        self._told_to_leave = anyio.Event()
        self._stopping = False
        self._outdated_since: float | None = None  # time.monotonic() when other models were offered first
        self._jobs = 0

    @property
    def busy(self) -> bool:
        """Whether it has a job that is not settled."""
        return self._current is not None

    def stop(self) -> None:
        """Take no further job: leave now, or after the receipt."""
        self._stopping = True
        self._rest()

    def refresh(self) -> None:
        """Leave in the next gap if other models are offered than it was registered with."""
        if self._models.keys() == self._shop.catalogue.offered().keys():
            self._outdated_since = None
        elif self._outdated_since is None:
            self._outdated_since = time.monotonic()

    async def run(self) -> None:
        """Read frames until the socket is closed, by either side."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._close_when_told)
                self._rest()  # something may have changed while we registered
                self.refresh()
                async for message in self._socket:
                    if message.type is aiohttp.WSMsgType.ERROR:
                        break
                    if message.type is aiohttp.WSMsgType.TEXT and self.leaving is None:
                        await self._heed(message.data, tasks)
                tasks.cancel_scope.cancel()
        finally:
            self._lose_job()

    # What a delivery asks of its line

    async def say(self, delivery: GridDelivery, text: str) -> bool:
        """Send a frame about a job, unless it is not the current one: the server does not look at its id."""
        return delivery is self._current and await self._send(text)

    async def give_back(self, delivery: GridDelivery, reason: str) -> Receipt:
        """Hand a job to another worker by closing the connection, the first time; the second time it is failed."""
        if delivery is self._current:
            await self._give_back(delivery.job_id, reason)
        return delivery.settle(Settlement.RETURNED, reason)  # what it was settled with, if it was

    def settled(self, delivery: GridDelivery, receipt: Receipt) -> None:
        """A job is closed."""
        if not delivery.offered:
            self._count(delivery.job_id, delivery.model, delivery.received, receipt)
        if delivery is self._current:
            self._current = None
            self._rest()

    # Gaps

    def _rest(self) -> None:
        """Between two jobs: leave if no further one is wanted."""
        if self._stopping and not self.busy:
            self._leave(Leaving.STOP)

    def _renew(self) -> bool:
        """In a gap: leave to register with other models, if it has to and is its turn."""
        if self._outdated_since is None or self.busy or not self._shop.renewals.begin(self._name):
            return False
        self._leave(Leaving.RENEW)
        return True

    async def _renew_in_gap(self) -> None:
        """After an acknowledgement: a job that follows at once was held for this connection, and more may be."""
        jobs = self._jobs
        await anyio.sleep(self._shop.settings.gap_seconds)
        if self._jobs == jobs:
            self._renew()

    def _waits_in_vain(self) -> bool:
        """Whether no ping has come for long enough, since there is something to leave for."""
        since = self._outdated_since
        return since is not None and time.monotonic() - since >= self._shop.settings.ping_patience

    # Frames

    async def _heed(self, text: str, tasks: TaskGroup) -> None:
        """Act on a frame. Whatever that throws ends this connection, which hands its job back, and no other."""
        try:
            await self._take(frames.parse_frame(text), tasks)
        except Exception as error:  # noqa: BLE001  # said here; the grid gives the job to somebody else
            logger.opt(exception=error).error(
                "Grid {}: a frame has led to an unexpected {}; the connection is renewed and its job goes back",
                self._name,
                type(error).__name__,
            )
            self._leave(Leaving.REFUSED)

    async def _take(self, frame: frames.Frame | frames.Unreadable, tasks: TaskGroup) -> None:
        current = self._current
        match frame:
            case frames.Ping():
                if current is not None and current.handed_in:
                    current.settle(Settlement.UNACKNOWLEDGED, "the grid takes the connection for idle")
                if not self._renew():  # an answer would end the moment in which the grid sees it close
                    await self._send(frames.PONG)
            case frames.Ack():
                self._acknowledged(frame)
                if self._waits_in_vain():
                    tasks.start_soon(self._renew_in_gap)
            case frames.Job():
                await self._take_job(frame, tasks)
            case frames.Cancel():
                if current is not None and frame.id == current.job_id and not current.handed_in:
                    current.settle(Settlement.RETURNED, "nobody waits for it any more")
            case frames.Error():
                logger.warning("Grid {}: the grid says: {}", self._name, shown(frame.message))
            case frames.Unreadable() if frame.job_id:
                self._another_job_came()
                if self.leaving is None:
                    reason = f"its frame cannot be read ({frame.reason})"
                    await self._turn_away(frame.job_id, "", time.monotonic(), reason)
            case frames.Unreadable():
                logger.debug("Grid {}: a frame was ignored: {}", self._name, frame.reason)
            case frames.Ready():
                pass  # said once, when we registered

    def _acknowledged(self, frame: frames.Ack) -> None:
        current = self._current
        if current is None or frame.id != current.job_id:
            logger.debug("Grid {}: an acknowledgement came late or twice", self._name)
        elif not current.handed_in:
            current.settle(Settlement.RETURNED, "the grid closed it before its result was sent")
        elif frame.reward > 0:
            current.settle(Settlement.PAID, reward=frame.reward)
        else:
            current.settle(Settlement.UNPAID, "acknowledged without pay: a probe, or somebody was faster")

    def _another_job_came(self) -> None:
        """A job that comes ends the one before it."""
        current = self._current
        if current is not None and current.handed_in:
            current.settle(Settlement.UNACKNOWLEDGED, "the next job came instead")
        elif current is not None:
            current.settle(Settlement.RETURNED, "the grid sent another job in its place")

    async def _take_job(self, frame: frames.Job, tasks: TaskGroup) -> None:
        self._another_job_came()
        if self.leaving is not None:
            return  # closing gives the job back
        self._jobs += 1
        shop, received = self._shop, time.monotonic()
        if len(frame.id) > MAX_ID_CHARACTERS:
            reason = f"its id has {len(frame.id)} characters, and {MAX_ID_CHARACTERS} are the most"
            await self._turn_away(frame.id, "", received, reason)
            return
        # What it was registered with is made until it is registered anew: returning it could cost another job.
        model = find_model(frame.model, {**self._models, **shop.catalogue.offered()})
        if model is None:
            name = str(frame.model)[:80]
            await self._turn_away(frame.id, name, received, f"model {name!r} is not offered any more")
            return
        root = _root(frame.payload)
        try:
            draft = to_draft(
                frame,
                model,
                received=received,
                due=received + shop.settings.client_seconds - shop.settings.margin_seconds,
                allow_img2img=shop.settings.allow_img2img,
            )
        except UnreadableRecipe as error:
            shop.catalogue.withhold(model.name, root, str(error))
            await self._turn_away(frame.id, model.name, received, str(error))
            return
        except BadJob as error:
            if shop.catalogue.withholds(model.name, root):
                await self._turn_away(frame.id, model.name, received, str(error))
                return
            logger.warning("Grid {}: job {} is given up: {}", self._name, frame.id, error)
            sent = await self._send(frames.error_frame(frame.id, error.public))
            settlement = Settlement.FAILED if sent else Settlement.RETURNED
            receipt = Receipt(settlement=settlement, unit=UNIT, detail=str(error))
            self._count(frame.id, model.name, received, receipt)
            return
        delivery = self._current = GridDelivery(
            job_id=frame.id,
            model=model.name,
            received=received,
            slots=draft.slots,
            line=self,
            ack_seconds=shop.settings.ack_seconds,
            progress_seconds=shop.settings.progress_seconds,
            signer=shop.signer,
        )
        tasks.start_soon(self._bring, draft, delivery)

    async def _bring(self, draft: Draft, delivery: GridDelivery) -> None:
        """Pass a job on; whatever that throws hands it back, and no other."""
        try:
            await self._offer(draft, delivery)
        except Exception as error:  # noqa: BLE001  # logged there
            await handed_back(draft.job.id, delivery, error)

    async def _offer(self, draft: Draft, delivery: GridDelivery) -> None:
        """Fetch what the job needs, ask the gate, and pass it on."""
        shop, job = self._shop, draft.job
        # Asked before anything is fetched: the longer a job is kept, the more the grid holds for this connection, and
        # loses with it.
        reason = shop.gate.refusal(job)
        if reason is None and draft.source_url is not None:
            try:
                source = await fetch_source_image(
                    shop.sources,
                    draft.source_url,
                    limit_bytes=shop.settings.source_limit_bytes,
                    timeout=shop.settings.source_timeout,
                )
                size = await measure_source_image(source, MOST_PIXELS) if draft.sized_by_source else None
                job = with_source(draft, source, size)
            except BadJob as error:
                logger.warning("Grid {}: job {} is given up: {}", self._name, job.id, error)
                await delivery.fail(error.public)
                return
            reason = shop.gate.refusal(job)  # time has passed, and only now its size is known
        if reason is not None:
            await self._give_back(job.id, reason)
            return
        if delivery.receipt is not None:
            return  # taken back meanwhile
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(cancel_when, delivery.withdrawn, waiting.cancel_scope)
            await self._queue(job, delivery)
            waiting.cancel_scope.cancel()

    async def _queue(self, job: JobSpec, delivery: GridDelivery) -> None:
        """Offer a job for as long as it can wait; cancelled when the grid takes it back."""
        shop = self._shop
        try:
            with anyio.fail_after(max(job.due - time.monotonic(), 0.0)):
                await shop.offers.send(Offer(job=job, delivery=delivery, transport=TRANSPORT, network=shop.host))
            delivery.offered = self.took_jobs = True
        except TimeoutError:
            await self._give_back(job.id, "it found no place in the queue in time")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._give_back(job.id, "the worker is going down")
            shop.stop()

    # Ends

    async def _turn_away(self, job_id: str, model: str, received: float, reason: str) -> None:
        """Give a job back that never became a delivery."""
        settlement = await self._give_back(job_id, reason)
        self._count(job_id, model, received, Receipt(settlement=settlement, unit=UNIT, detail=reason))

    def _count(self, job_id: str, model: str, received: float, receipt: Receipt) -> None:
        """A job ended here, at intake; those that were offered are counted by whoever took the offer."""
        self._shop.gate.ended(
            IntakeEnd(id=job_id, model=model, transport=TRANSPORT, receipt=receipt, received=received)
        )

    async def _give_back(self, job_id: str, reason: str) -> Settlement:
        """Hand a job to another worker by closing the connection: an error would end it for its customer.

        The grid hands it to any connection, this worker's other ones too. A job that comes back is failed: no other
        worker is there to run it, and it would circle until its customer gives up. A connection that offers a model
        which is not offered any more is closed in any case: none of ours brings that model's jobs again.

        Returns: how the job ended here.
        """
        first = self._shop.ledger.give_back(job_id[:MAX_ID_CHARACTERS])
        if first or set(self._models) - set(self._shop.catalogue.offered()):
            logger.warning(
                "Grid {}: job {} goes back, by closing the connection: {}", self._name, shown(job_id), reason
            )
            self._leave(Leaving.REFUSED)
            settlement = Settlement.RETURNED
        else:
            logger.warning("Grid {}: job {} came back and is failed: {}", self._name, shown(job_id), reason)
            sent = await self._send(frames.error_frame(job_id, BadJob.public))
            settlement = Settlement.FAILED if sent else Settlement.RETURNED
        if self._current is not None and self._current.job_id == job_id:
            self._current.settle(settlement, reason)
        return settlement

    def _leave(self, why: Leaving) -> None:
        if self.leaving is None:
            self.leaving = why
            self._told_to_leave.set()

    async def _close_when_told(self) -> None:
        await self._told_to_leave.wait()
        await self._socket.close()

    def _lose_job(self) -> None:
        current = self._current
        if current is None:
            return
        if current.handed_in:  # paid or requeued: nobody can tell from here
            current.settle(Settlement.UNACKNOWLEDGED, "the connection broke before the answer")
        else:
            current.settle(Settlement.RETURNED, "the connection broke: the grid gives the job to somebody else")

    async def _send(self, text: str) -> bool:
        if self._socket.closed:
            return False
        try:
            await self._socket.send_str(text)
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            # aiohttp words a socket that closes under a send in all three ways; the reader sees the end as well
            logger.debug("Grid {}: a frame could not be sent ({})", self._name, type(error).__name__)
            return False
        return True


def _root(payload: Any) -> str:
    root = payload.get("recipe_root") if isinstance(payload, dict) else None
    return root if isinstance(root, str) else ""
