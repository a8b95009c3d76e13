"""The grid's queue: which connection gets which job, when it goes back, and how it ends for everybody."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol
from uuid import UUID

from trt_worker.local_grid.faults import FaultInjector
from trt_worker.local_grid.json_text import dump
from trt_worker.local_grid.ledger import Entry, Ledger, Outcome
from trt_worker.local_grid.payload import CONTENT_TYPES, den
from trt_worker.local_grid.requests import GridHandle, GridResult, UploadedImage
from trt_worker.local_grid.settings import GridSettings
from trt_worker.local_grid.storage import Storage

_HEX = frozenset("0123456789abcdef")
UNVERIFIED = "Worker output verification failed."


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One job from its submission to its end."""

    id: str
    model: str
    payload: Mapping[str, Any]
    probe: bool
    handle: GridHandle
    entry: Entry
    timer: asyncio.TimerHandle | None = None
    slots: tuple[str, ...] = ()  # storage keys of the last dispatch
    sent: float = 0.0  # time.monotonic() of the last dispatch
    withheld: bool = False  # kept from the queue until its customer has given up


class Taker(Protocol):
    """A connection, as the queue sees it."""

    name: str
    models: frozenset[str]

    @property
    def has_room(self) -> bool:
        """Whether another job may be given."""

    def give(self, job: Job) -> None:
        """Take a job: run it, or hold it while another runs."""


@dataclass(slots=True)
class Coordinator:
    """Jobs without a connection, and the connections that are up.

    Unlike the real coordinator, which bounces a job up to 25 times between connections that do not list its model,
    this one never gives a job to a connection that cannot have it; the job waits.
    """

    settings: GridSettings
    storage: Storage
    faults: FaultInjector
    ledger: Ledger
    takers: list[Taker] = field(default_factory=list)
    alive: dict[str, Job] = field(default_factory=dict)  # queued or with a connection
    lost: list[Job] = field(default_factory=list)  # nobody has them; their customers wait in vain
    _queues: dict[str, deque[tuple[int, Job]]] = field(default_factory=dict)
    _random: Random = field(default_factory=Random)
    _order: int = 0

    def __post_init__(self) -> None:
        self._random = Random(self.settings.seed)

    def new_id(self) -> str:
        """A job or worker id; repeatable from the settings' seed."""
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def draw_seed(self) -> int:
        """A seed for a customer who named none."""
        return self._random.getrandbits(53)

    @property
    def queued(self) -> int:
        """Jobs that no connection holds."""
        return sum(len(queue) for queue in self._queues.values())

    def submit(self, *, model: str, payload: Mapping[str, Any], probe: bool, job_id: str | None = None) -> GridHandle:
        """Take a customer's job: to a connection that has room for it, else into the queue.

        Args: job_id: what it is called; None: a new id.
        """
        job_id = job_id or self.new_id()
        handle = GridHandle(job_id, payload)
        entry = self.ledger.submit(job_id, transport="grid", model=model, images=payload["n"])
        job = Job(id=job_id, model=model, payload=payload, probe=probe, handle=handle, entry=entry)
        self.alive[job_id] = job
        job.timer = asyncio.get_running_loop().call_later(self.settings.client_seconds, self._time_out, job)
        if self.faults.strike("late_job"):
            job.withheld = True
        else:
            self._place(job)
        return handle

    def join(self, taker: Taker) -> None:
        """A connection is up: it is given what waits for its models."""
        self.takers.append(taker)
        self.fill(taker)

    def leave(self, taker: Taker, running: Job | None, held: Sequence[Job]) -> None:
        """A connection is gone: what it had goes back, the running job counting as one attempt."""
        if taker in self.takers:
            self.takers.remove(taker)
        if running is not None:
            if running.entry.requeued >= self.settings.max_requeues:
                self._close(running, 503, Outcome.GIVEN_UP, "No worker could complete this job; giving up.")
            else:
                self.ledger.requeue(running.entry)
                self._place(running)
        for job in held:
            self._place(job)

    def lose(self, job: Job) -> None:
        """A job was in no queue and with no connection when its connection ended: it is never handed out again."""
        self.lost.append(job)
        self.ledger.notes.append(f"job {job.id}: lost when its connection closed")

    def fill(self, taker: Taker) -> None:
        """Give a connection the oldest jobs it serves, as many as it has room for."""
        while taker.has_room:
            waiting = [queue for model in taker.models if (queue := self._queues.get(model))]
            if not waiting:
                return
            taker.give(min(waiting, key=_oldest).popleft()[1])

    def frame(self, job: Job, worker: str) -> str:
        """The job frame for a connection, with fresh upload slots; books the dispatch."""
        content_type = CONTENT_TYPES[job.payload["ext"]]
        slots = [
            self.storage.slot(
                f"image/{job.id}/{index}.{job.payload['ext']}",
                seconds=self.settings.upload_seconds,
                content_type=content_type,
            )
            for index in range(job.payload["n"])
        ]
        job.slots = tuple(slot.key for slot in slots)
        job.sent = time.monotonic()
        self.ledger.dispatch(job.entry, worker)
        job.handle.mark_dispatched()
        return dump(
            {
                "type": "job",
                "id": job.id,
                "job_type": "image",
                "model": job.model,
                "payload": job.payload,
                "upload": [
                    {"put_url": slot.put_url, "key": slot.key, "content_type": slot.content_type} for slot in slots
                ],
            }
        )

    def settle(self, job: Job, results: Any, *, worker: str, signature: str | None) -> float | None:
        """Verify a result and pay it.

        Returns: the den of the acknowledgement; None: the result was rejected and nothing is acknowledged.
        """
        images = self._verify(job, results)
        if images is None:
            self._close(job, 502, Outcome.REJECTED, UNVERIFIED, worker=worker)
            return None
        payload = job.payload
        amount = 0.0 if job.probe else den(payload["width"], payload["height"], payload["steps"], payload["n"])
        if not job.probe:
            self.ledger.pay(job.entry, job.id, amount)
        for key in job.slots:
            self.storage.take(key)
        self._close(job, 200, Outcome.DELIVERED, "", worker=worker, images=images, amount=amount, signature=signature)
        return amount

    def fail(self, job: Job, message: str, *, worker: str) -> None:
        """The worker reported an error: terminal, the customer reads its message."""
        self._close(job, 502, Outcome.WORKER_ERROR, message, worker=worker)

    def give_up(self, job: Job, *, worker: str) -> None:
        """The result could not be settled."""
        self._close(job, 503, Outcome.GIVEN_UP, "The result could not be settled.", worker=worker)

    def _verify(self, job: Job, results: Any) -> tuple[UploadedImage, ...] | None:
        n = len(job.slots)
        if not isinstance(results, list) or len(results) != n:
            return None
        images: dict[int, UploadedImage] = {}
        for result in results:
            if not isinstance(result, dict):
                return None
            index, digest, seed = result.get("index"), result.get("sha256"), result.get("seed")
            if type(index) is not int or not 0 <= index < n or index in images:
                return None
            if not isinstance(digest, str) or len(digest) != 64 or not _HEX.issuperset(digest):
                return None
            stored = self.storage.head(job.slots[index])
            if stored is None or not stored.data or stored.content_type != CONTENT_TYPES[job.payload["ext"]]:
                return None
            images[index] = UploadedImage(
                index=index, data=stored.data, content_type=stored.content_type, sha256=digest, seed=seed
            )
        return tuple(images[index] for index in range(n))

    def _place(self, job: Job) -> None:
        takers = [taker for taker in self.takers if job.model in taker.models and taker.has_room]
        if takers:
            self._random.choice(takers).give(job)
        else:
            self._order += 1
            self._queues.setdefault(job.model, deque()).append((self._order, job))

    def _time_out(self, job: Job) -> None:
        self.ledger.answer(job.entry, Outcome.TIMED_OUT)
        job.handle.end(GridResult(job_id=job.id, status=504, message="Timed out waiting for the image."))
        if job.withheld:
            job.withheld = False
            self._place(job)

    def _close(
        self,
        job: Job,
        status: int,
        outcome: Outcome,
        message: str,
        *,
        worker: str = "",
        images: tuple[UploadedImage, ...] = (),
        amount: float = 0.0,
        signature: str | None = None,
    ) -> None:
        """Tell the customer, unless it has left."""
        self.alive.pop(job.id, None)
        now = time.monotonic()
        job.entry.closed = now
        if job.timer is not None:
            job.timer.cancel()
        if job.entry.answers:
            return
        self.ledger.answer(job.entry, outcome)
        job.handle.end(
            GridResult(
                job_id=job.id,
                status=status,
                message=message,
                images=images,
                den=amount,
                worker=worker,
                seconds=now - job.sent if job.sent else 0.0,
                requeues=job.entry.requeued,
                signature=signature,
            )
        )


def _oldest(queue: deque[tuple[int, Job]]) -> int:
    return queue[0][0]
