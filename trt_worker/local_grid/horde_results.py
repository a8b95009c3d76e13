"""What becomes of images in workers' hands: handed in, faulted or late, and the answer to whoever asked for them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from trt_worker.local_grid import horde_match as match
from trt_worker.local_grid.horde_errors import did_you_mean, plain, refused
from trt_worker.local_grid.horde_images import decoded
from trt_worker.local_grid.horde_queue import HordeQueue
from trt_worker.local_grid.horde_state import Generation
from trt_worker.local_grid.ledger import Ledger, Outcome
from trt_worker.local_grid.settings import Dialect
from trt_worker.local_grid.storage import Storage

SUBMIT = "/api/v2/generate/submit"
DROPPING_TEXT = (
    "Maintenance mode activated because worker is dropping too many jobs."
    "Please investigate if your performance has been impacted and consider reducing your max_power or your max_threads"
)
_MOST_METADATA = 50
_HOUR = 3_600.0
_DROPS_ABORTED = 3  # faulted images of one request after which the sweep faults it


class HordeResults:
    """Takes results for the images that a queue has handed out."""

    def __init__(self, queue: HordeQueue, storage: Storage, ledger: Ledger) -> None:
        self._queue = queue
        self._storage = storage
        self._ledger = ledger

    def submit(self, body: Mapping[str, Any], key: str | None) -> float:
        """Take a result; returns the reward.

        Raises: HordeError: as the server does, in its own order: id, key, ownership, state, too many metadata.
        """
        generation = self._queue.generations.get(body["id"])
        if generation is None:
            hint = did_you_mean(SUBMIT, SUBMIT, "/api/v2/generate/text/submit", "/api/v2/interrogate/submit")
            raise refused(404, "InvalidJobID", f"Processing Job with ID {body['id']} does not exist.{hint}")
        account = self._queue.workers.accounts.get(key or "")
        if account is None or body["seed"] >= 2**63:
            raise plain(500, "Internal Server Error")
        worker = generation.worker
        if account.key != worker.owner.key:
            raise refused(403, "WrongCredentials", "Wrong credentials to submit as this worker.")
        if generation.aborted:
            raise refused(400, "AbortedGen", self._aborted_text(generation))
        if generation.done is not None:
            if worker.maintenance is not None:
                return 0.0
            raise refused(400, "DuplicateGen", f"Processing Generation with ID {generation.id} already submitted.")
        self._ledger.done(generation.request.entry)
        if body.get("state", "ok") == "faulted":
            self._abort(generation)
            return 0.0
        self._deliver(generation, body)
        if len(body.get("gen_metadata") or ()) > _MOST_METADATA:
            raise refused(400, "BadRequest", f"Too many metadata fields. Max is {_MOST_METADATA}.")
        self._ledger.ack(generation.request.entry)
        return generation.reward

    def sweep(self, now: float | None = None) -> None:
        """Take back what is past its ttl, and fault requests that failed too often; the server does so once a minute.

        Args:
            now: time.monotonic() seconds; later than the real time makes jobs late.
        """
        now = time.monotonic() if now is None else now
        for generation in list(self._queue.generations.values()):
            if generation.done is None and not generation.aborted and now - generation.started > generation.ttl:
                self._abort(generation)
        for request in list(self._queue.requests.values()):
            faults = sum(slot.faults for slot in request.slots)
            if faults >= _DROPS_ABORTED and not request.done and not request.faulted:
                request.faulted = True
                request.waiting.clear()
            if request.faulted and request.done:
                self._queue.answer(request, Outcome.GIVEN_UP)

    def _deliver(self, generation: Generation, body: Mapping[str, Any]) -> None:
        request, worker, now = generation.request, generation.worker, time.monotonic()
        generation.done, generation.result, generation.seed = now, body["generation"], body["seed"]
        generation.metadata = tuple(body.get("gen_metadata") or ())
        generation.censored = any(each["type"] == "censorship" for each in generation.metadata)
        if generation.result != "R2" and (data := decoded(generation.result)) is not None:
            self._storage.add(generation.upload_key, data, "image/webp")
        speed = request.pixel_steps / max(now - generation.started, 1e-6)
        worker.speeds.append(speed)
        if speed > match.SUSPICIOUS:
            worker.suspicion += 1
            if worker.suspicion >= 5 and not worker.owner.trusted:
                worker.paused = True
        worker.fulfilled += 1
        worker.pixel_steps += request.pixel_steps
        if not generation.fake or self._queue.dialect is Dialect.AIPG:  # upstream credits nothing for fakes
            worker.kudos += round(generation.reward * match.bonus(worker.said["bridge_agent"], self._queue.dialect))
        if generation.fake:
            return
        generation.slot.final = generation
        request.consumed += 0 if generation.censored else generation.reward + 1
        self._ledger.pay(request.entry, f"{request.id} image {generation.slot.index}", generation.reward)
        if request.done:
            self._queue.answer(request, Outcome.DELIVERED)

    def _abort(self, generation: Generation) -> None:
        """An image failed or came too late: it goes back once, and the worker is told off."""
        request, worker, now = generation.request, generation.worker, time.monotonic()
        generation.aborted = True
        worker.uncompleted += 1
        worker.drops.append(now)
        while worker.drops and now - worker.drops[0] > _HOUR:
            worker.drops.popleft()
        if len(worker.drops) > self._queue.settings.drops_before_maintenance and worker.maintenance is None:
            worker.maintenance = DROPPING_TEXT
            worker.suspicion += 1
            worker.drops.clear()
        if generation.fake:
            return
        request.restarted += 1
        generation.slot.faults += 1
        if generation.slot.faults == 1 and not request.cancelled:
            request.waiting.append(generation.slot)
            self._ledger.requeue(request.entry)
        elif request.done:
            self._queue.answer(request, Outcome.DELIVERED if request.finished else Outcome.GIVEN_UP)

    def _aborted_text(self, generation: Generation) -> str:
        start = f"Processing Generation with ID {generation.id} took too long to process and has been aborted! "
        if self._queue.dialect is Dialect.AIPG:
            return f"{start}Please check your worker speed and do not onboard worker which generate slower than 1 it/s!"
        return (
            f"{start}Please check your worker speed - generations must complete within {generation.ttl:.0f} seconds "
            "(minimum ~1 it/s, higher for large requests)!"
        )
