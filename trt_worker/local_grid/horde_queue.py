"""The Horde's queue: requests come in, and workers get images of them."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any
from uuid import UUID

from trt_worker.local_grid import horde_match as match
from trt_worker.local_grid.faults import FaultInjector
from trt_worker.local_grid.horde_errors import refused
from trt_worker.local_grid.horde_images import result_text, source_image
from trt_worker.local_grid.horde_schema import ASK, check
from trt_worker.local_grid.horde_state import Generation, HordeWorker, ImageSlot, Request
from trt_worker.local_grid.horde_workers import HordeWorkers
from trt_worker.local_grid.ledger import Ledger, Outcome
from trt_worker.local_grid.requests import HordeHandle, HordeImage, HordeResult
from trt_worker.local_grid.settings import Account, GridSettings
from trt_worker.local_grid.storage import Storage

OWNERS_TEXT = "This worker has been put into maintenance mode by its owner"


class HordeQueue:
    """Requests and the images of them that workers have."""

    def __init__(self, settings: GridSettings, storage: Storage, faults: FaultInjector, ledger: Ledger) -> None:
        self.settings = settings.horde
        self.dialect = settings.horde.dialect
        self.requests: dict[str, Request] = {}
        self.generations: dict[str, Generation] = {}
        self.workers = HordeWorkers(settings, self.new_id)
        self._storage = storage
        self._faults = faults
        self._ledger = ledger
        self._random = Random(settings.seed + 1)

    @property
    def alive(self) -> set[str]:
        """Requests that nobody has been answered about."""
        return {request.id for request in self.requests.values() if not request.handle.has_ended}

    def new_id(self) -> str:
        """A request, worker or image id; repeatable from the settings' seed."""
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def ask(self, body: Mapping[str, Any], owner: Account) -> Request:
        """Take a request.

        Raises: HordeError: 400, a field is not what the API takes, or a source image is not one.
        """
        check(body, ASK)
        params = body.get("params") or {}
        request_id = self.new_id()
        models = body.get("models") or []
        slots = tuple(ImageSlot(index=index) for index in range(int(params.get("n", 1))))
        extra = tuple(
            (source_image(each["image"]), float(each.get("strength", 1.0)))
            for each in body.get("extra_source_images") or ()
        )
        request = Request(
            id=request_id,
            owner=owner,
            body=body,
            params=params,
            seed=self._seed(params.get("seed")),
            handle=HordeHandle(request_id, body),
            entry=self._ledger.submit(
                request_id, transport="horde", model=models[0] if models else "", images=len(slots)
            ),
            waiting=deque(slots),
            slots=slots,
            source_image=source_image(body["source_image"]) if body.get("source_image") else None,
            source_mask=source_image(body["source_mask"]) if body.get("source_mask") else None,
            extra_images=extra,
        )
        self.requests[request_id] = request
        return request

    def cancel(self, request: Request) -> None:
        """The requester does not want it any more; images under way are still taken and paid."""
        request.cancelled = True
        request.waiting.clear()
        self.answer(request, Outcome.CANCELLED)

    def forget(self, request: Request) -> None:
        """Drop a request with its images, as the server does when it expires."""
        self.cancel(request)
        del self.requests[request.id]
        for generation in request.generations:
            self.generations.pop(generation.id, None)

    def pop(self, worker: HordeWorker, models: Sequence[str], amount: int) -> list[Generation]:
        """Hand out images of the oldest request the worker can have; none: an empty list.

        Raises: HordeError: 403, the worker is in maintenance and none of its owner's requests fits.
        """
        maintenance = self._faults.strike("maintenance")
        if worker.maintenance is not None or maintenance:
            for request in self._open():
                if request.owner.key == worker.owner.key and (taken := self._take(request, worker, models, amount)):
                    return taken
            raise refused(403, "WorkerMaintenance", worker.maintenance or OWNERS_TEXT)
        for request in self._open():
            if taken := self._take(request, worker, models, amount):
                return taken
        return []

    def open_requests(self) -> list[Request]:
        """Requests with images that nobody works on."""
        return list(self._open())

    def answer(self, request: Request, outcome: Outcome) -> None:
        """End a request, unless it has ended."""
        if request.handle.has_ended:
            return
        self._ledger.answer(request.entry, outcome)
        request.handle.end(
            HordeResult(
                request_id=request.id,
                done=request.done,
                faulted=request.faulted,
                images=tuple(self._outcome(slot.final) for slot in request.slots if slot.final is not None),
                restarted=request.restarted,
                seconds=time.monotonic() - request.created,
            )
        )

    def _open(self) -> list[Request]:
        return [request for request in self.requests.values() if request.waiting]

    def _take(self, request: Request, worker: HordeWorker, models: Sequence[str], amount: int) -> list[Generation]:
        if worker.paused and request.id in worker.tricked:
            return []
        if match.obstacles(request, worker, models, self.dialect):
            return []
        if worker.paused:  # fakes know no whole-batch rule
            count = min(amount, len(request.waiting))
        else:
            count = match.share(request, amount, worker.said["max_pixels"], self.dialect)
        if count == 0:
            return []
        model = match.assign(request, models, self._random.getrandbits(16))
        late = self._faults.strike("late_job")
        given = self.settings.ttl_seconds
        seconds = match.ttl(request, worker, model, self.dialect) if given is None else given
        pays = match.kudos(request)
        if worker.paused:
            worker.tricked.add(request.id)
            slots = [ImageSlot(index=index) for index in range(count)]
        else:
            slots = [request.waiting.popleft() for _ in range(count)]
        taken = []
        for slot in slots:
            image_id = self.new_id()
            taken.append(
                Generation(
                    id=image_id,
                    request=request,
                    slot=slot,
                    worker=worker,
                    model=model,
                    started=time.monotonic() - (late.seconds if late else 0.0),
                    ttl=seconds,
                    fake=worker.paused,
                    reward=pays,
                    upload_key=f"horde/{image_id}.webp",
                )
            )
        self.generations.update((each.id, each) for each in taken)
        if not worker.paused:
            request.generations.extend(taken)
            self._ledger.dispatch(request.entry, worker.name)
            request.handle.mark_dispatched()
        return taken

    def _outcome(self, generation: Generation) -> HordeImage:
        stored = self._storage.head(generation.upload_key)
        return HordeImage(
            id=generation.id,
            img=result_text(generation, self._storage, seconds=self.settings.upload_seconds),
            data=stored.data if stored is not None else None,
            seed=str(generation.seed),
            censored=generation.censored,
            state="ok",
            metadata=generation.metadata,
            worker_name=generation.worker.name,
            kudos=generation.reward,
        )

    def _seed(self, text: str | None) -> int:
        if not text:
            return self._random.getrandbits(32)
        if text.isdecimal():
            return int(text) % 2**32
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
