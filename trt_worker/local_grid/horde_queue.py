"""The Horde's queue: requests come in, workers check in and pop, results are handed in, late images go back."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from io import BytesIO
from random import Random
from typing import Any
from uuid import UUID

from PIL import Image

from trt_worker.local_grid import horde_match as match
from trt_worker.local_grid.faults import FaultInjector
from trt_worker.local_grid.horde_errors import did_you_mean, invalid_key, plain, refused
from trt_worker.local_grid.horde_state import Generation, HordeWorker, ImageSlot, Request
from trt_worker.local_grid.ledger import Ledger, Outcome
from trt_worker.local_grid.requests import HordeHandle, HordeImage, HordeResult
from trt_worker.local_grid.settings import Account, Dialect, GridSettings
from trt_worker.local_grid.storage import Storage

ANONYMOUS = "0000000000"
SUBMIT = "/api/v2/generate/submit"
DEFAULTS: Mapping[str, Any] = {
    "nsfw": True,
    "bridge_agent": "unknown:0:unknown",
    "threads": 1,
    "require_upfront_kudos": False,
    "amount": 1,
    "extra_slow_worker": False,
    "max_pixels": 262_144,
    "blacklist": (),
    "allow_img2img": True,
    "allow_painting": True,
    "allow_unsafe_ipaddr": True,
    "allow_post_processing": True,
    "allow_controlnet": False,
    "allow_sdxl_controlnet": False,
    "allow_lora": False,
    "limit_max_steps": False,
    "wallet_address": None,
}
"""What a server takes for a field that a pop leaves out, whatever its documentation says."""

OWNERS_TEXT = "This worker has been put into maintenance mode by its owner"
DROPPING_TEXT = (
    "Maintenance mode activated because worker is dropping too many jobs."
    "Please investigate if your performance has been impacted and consider reducing your max_power or your max_threads"
)
_FLAGGED_TEXT = (
    "Your user has been flagged by our community for suspicious activity. "
    "Please contact us on discord: https://discord.gg/3DxrhksKzn"
)
_PROFANE = re.compile(r"fuck|shit|cunt", re.IGNORECASE)
_FORBIDDEN_WORDS = ("colab", "tpu", "google")
_LONGEST_NAME = 100
_MOST_METADATA = 50
_HOUR = 3_600.0
_DROPS_ABORTED = 3  # faulted images of one request after which the sweep faults it


class HordeQueue:
    """Everything that happens between requesters and workers, without HTTP."""

    def __init__(self, settings: GridSettings, storage: Storage, faults: FaultInjector, ledger: Ledger) -> None:
        self.settings = settings.horde
        self.dialect = settings.horde.dialect
        self.accounts: Mapping[str, Account] = {account.key: account for account in settings.accounts}
        self.other_names: set[str] = set()  # taken by text workers
        self.known_models = set(settings.horde.known_models)
        self.workers: dict[str, HordeWorker] = {}  # by name
        self.requests: dict[str, Request] = {}
        self.generations: dict[str, Generation] = {}
        self._storage = storage
        self._faults = faults
        self._ledger = ledger
        self._random = Random(settings.seed + 1)

    def account(self, key: str | None) -> Account:
        """Whose key it is.

        Raises: HordeError: 401, nobody's.
        """
        if key is None or key not in self.accounts:
            raise invalid_key()
        return self.accounts[key]

    def worker_by_id(self, worker_id: str) -> HordeWorker | None:
        """The worker with an id."""
        return next((worker for worker in self.workers.values() if worker.id == worker_id), None)

    @property
    def alive(self) -> set[str]:
        """Requests that nobody has been answered about."""
        return {request.id for request in self.requests.values() if not request.handle.has_ended}

    def new_id(self) -> str:
        """A request, worker or image id; repeatable from the settings' seed."""
        return str(UUID(int=self._random.getrandbits(128), version=4))

    # requesters

    def ask(self, body: Mapping[str, Any], owner: Account) -> Request:
        """Take a request.

        Raises: HordeError: 400, a source image is not one.
        """
        params = body.get("params") or {}
        request_id = self.new_id()
        models = body.get("models") or []
        slots = tuple(ImageSlot(index=index) for index in range(int(params.get("n", 1))))
        extra = tuple(
            (_image(each["image"]), float(each.get("strength", 1.0))) for each in body.get("extra_source_images") or ()
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
            source_image=_image(body["source_image"]) if body.get("source_image") else None,
            source_mask=_image(body["source_mask"]) if body.get("source_mask") else None,
            extra_images=extra,
        )
        self.requests[request_id] = request
        return request

    def cancel(self, request: Request) -> None:
        """The requester does not want it any more; images under way are still taken and paid."""
        request.cancelled = True
        request.waiting.clear()
        self._answer(request, Outcome.CANCELLED)

    def forget(self, request: Request) -> None:
        """Drop a request with its images, as the server does when it expires."""
        self.cancel(request)
        del self.requests[request.id]
        for generation in request.generations:
            self.generations.pop(generation.id, None)

    # workers

    def check_in(self, body: Mapping[str, Any], key: str | None) -> HordeWorker:
        """Who pops, with its flags stored.

        Raises: HordeError: any of the reasons a worker is turned away.
        """
        owner = self.account(key)
        if any("#" not in name for name in body.get("priority_usernames") or ()):
            raise refused(
                400,
                "InvalidPriorityUsername",
                "Priority usernames need to be provided in the form of 'alias#number'. Example: 'db0#1'",
            )
        if owner.flagged:
            raise refused(403, "WorkerFlaggedMaintenance", _FLAGGED_TEXT)
        if owner.key == ANONYMOUS:
            raise refused(403, "AnonForbiddenWorker", "Anonymous user is forbidden from performing this operation")
        name = _clean(body["name"])
        if name in self.other_names:
            text = f"The specified name '{name}' is already taken by a different type of worker. "
            raise refused(400, "PolymorphicNameConflict", text + "Please choose a different name!")
        models = self._known(body.get("models") or ())
        worker = self.workers.get(name)
        if worker is None:
            worker = self._hire(name, owner, body, models)
        elif worker.owner.key != owner.key:
            raise refused(403, "WrongCredentials", "Wrong credentials to submit as this worker.")
        elif not models:
            raise _unknown_models()
        now = time.monotonic()
        worker.checked_in = now
        fresh = {**DEFAULTS, **{field: value for field, value in body.items() if field in DEFAULTS}}
        debounce = self.settings.debounce_seconds if self.dialect is Dialect.AI_HORDE else 0.0
        if now - worker.created <= debounce or now - worker.stored >= debounce:
            worker.said, worker.stored, worker.models = fresh, now, models
        return worker

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

    def submit(self, body: Mapping[str, Any], key: str | None) -> float:
        """Take a result; returns the reward.

        Raises: HordeError: as the server does, in its own order: id, key, ownership, state, too many metadata.
        """
        generation = self.generations.get(body["id"])
        if generation is None:
            hint = did_you_mean(SUBMIT, SUBMIT, "/api/v2/generate/text/submit", "/api/v2/interrogate/submit")
            raise refused(404, "InvalidJobID", f"Processing Job with ID {body['id']} does not exist.{hint}")
        account = self.accounts.get(key or "")
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
        for generation in list(self.generations.values()):
            if generation.done is None and not generation.aborted and now - generation.started > generation.ttl:
                self._abort(generation)
        for request in list(self.requests.values()):
            faults = sum(slot.faults for slot in request.slots)
            if faults >= _DROPS_ABORTED and not request.done and not request.faulted:
                request.faulted = True
                request.waiting.clear()
            if request.faulted and request.done:
                self._answer(request, Outcome.GIVEN_UP)

    def credit(self, worker: HordeWorker, amount: float) -> float:
        """What the owner's balance gains for a reward."""
        return round(amount * match.bonus(worker.said["bridge_agent"], self.dialect))

    # inner workings

    def _open(self) -> list[Request]:
        return [request for request in self.requests.values() if request.waiting]

    def _known(self, models: Sequence[str]) -> tuple[str, ...]:
        return tuple(model for model in models if model in self.known_models)

    def _hire(self, name: str, owner: Account, body: Mapping[str, Any], models: tuple[str, ...]) -> HordeWorker:
        if _PROFANE.search(name):
            raise _profane("ProfaneWorkerName", "worker name")
        if _PROFANE.search(body.get("bridge_agent", "")):
            raise _profane("ProfaneBridgeAgent", "bridge agent")
        for word in _FORBIDDEN_WORDS:
            if word in name.lower():
                text = f"To avoid unwanted attention, please do not use '{word}' in your worker names."
                raise refused(400, "BadRequest", text)
        if len(name) > _LONGEST_NAME:
            raise plain(500, "Internal Server Error")
        crowd = sum(worker.owner.key == owner.key for worker in self.workers.values())
        aipg = self.dialect is Dialect.AIPG
        if not owner.trusted and crowd > 3:
            text = "To avoid abuse, untrusted users can only have up to 3 distinct workers."
            raise refused(403, "Forbidden" if aipg else "TooManyWorkers", text)
        if owner.trusted and crowd > 20:
            text = "To avoid abuse, users can only have up to 20 distinct workers."
            raise refused(403, "Forbidden" if aipg else "TooManyWorkersTrusted", text)
        if not models:
            raise _unknown_models()
        worker = HordeWorker(id=self.new_id(), name=name, owner=owner, said=dict(DEFAULTS))
        self.workers[name] = worker
        return worker

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

    def _deliver(self, generation: Generation, body: Mapping[str, Any]) -> None:
        request, worker, now = generation.request, generation.worker, time.monotonic()
        generation.done, generation.result, generation.seed = now, body["generation"], body["seed"]
        generation.metadata = tuple(body.get("gen_metadata") or ())
        generation.censored = any(each["type"] == "censorship" for each in generation.metadata)
        if generation.result != "R2" and (data := _decoded(generation.result)) is not None:
            self._storage.add(generation.upload_key, data, "image/webp")
        speed = request.pixel_steps / max(now - generation.started, 1e-6)
        worker.speeds.append(speed)
        if speed > match.SUSPICIOUS:
            worker.suspicion += 1
            if worker.suspicion >= 5 and not worker.owner.trusted:
                worker.paused = True
        worker.fulfilled += 1
        worker.pixel_steps += request.pixel_steps
        if not generation.fake or self.dialect is Dialect.AIPG:  # upstream credits nothing for fakes
            worker.kudos += self.credit(worker, generation.reward)
        if generation.fake:
            return
        generation.slot.final = generation
        request.consumed += 0 if generation.censored else generation.reward + 1
        self._ledger.pay(request.entry, f"{request.id} image {generation.slot.index}", generation.reward)
        if request.done:
            self._answer(request, Outcome.DELIVERED)

    def _abort(self, generation: Generation) -> None:
        """An image failed or came too late: it goes back once, and the worker is told off."""
        request, worker, now = generation.request, generation.worker, time.monotonic()
        generation.aborted = True
        worker.uncompleted += 1
        worker.drops.append(now)
        while worker.drops and now - worker.drops[0] > _HOUR:
            worker.drops.popleft()
        if len(worker.drops) > self.settings.drops_before_maintenance and worker.maintenance is None:
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
            self._answer(request, Outcome.DELIVERED if request.finished else Outcome.GIVEN_UP)

    def _answer(self, request: Request, outcome: Outcome) -> None:
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

    def _outcome(self, generation: Generation) -> HordeImage:
        stored = self._storage.head(generation.upload_key)
        return HordeImage(
            id=generation.id,
            img=self.image_text(generation),
            data=stored.data if stored is not None else None,
            seed=str(generation.seed),
            censored=generation.censored,
            state="ok",
            metadata=generation.metadata,
            worker_name=generation.worker.name,
            kudos=generation.reward,
        )

    def image_text(self, generation: Generation) -> str:
        """What the requester gets for an image: an address, base64 with `r2` false, or whatever the worker sent."""
        stored = self._storage.head(generation.upload_key)
        if stored is None and generation.result != "R2":
            return generation.result
        if stored is not None and not generation.request.flag("r2", True):
            return base64.b64encode(stored.data).decode()
        return self._storage.address(generation.upload_key, seconds=self.settings.upload_seconds)

    def _aborted_text(self, generation: Generation) -> str:
        start = f"Processing Generation with ID {generation.id} took too long to process and has been aborted! "
        if self.dialect is Dialect.AIPG:
            return f"{start}Please check your worker speed and do not onboard worker which generate slower than 1 it/s!"
        return (
            f"{start}Please check your worker speed - generations must complete within {generation.ttl:.0f} seconds "
            "(minimum ~1 it/s, higher for large requests)!"
        )

    def _seed(self, text: str | None) -> int:
        if not text:
            return self._random.getrandbits(32)
        if text.isdecimal():
            return int(text) % 2**32
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _unknown_models() -> Exception:
    text = "Unfortunately we cannot accept workers serving unrecognised models at this time"
    return refused(400, "BadRequest", text)


def _profane(rc: str, what: str) -> Exception:
    text = f"As our API is public, we do not allow profanity in the {what}, please try again."
    return refused(400, rc, text)


def _clean(name: str) -> str:
    return name.replace("\0", "").replace("&", "&amp;")


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _image(text: str) -> bytes:
    """A source image as the server keeps it: WebP of quality 50, transparency kept."""
    data = _decoded(text)
    try:
        with Image.open(BytesIO(data or b"")) as image:
            buffer = BytesIO()
            image.save(buffer, "WEBP", quality=50)
            return buffer.getvalue()
    except OSError as error:
        raise refused(400, "BadRequest", "The source image could not be read.") from error
