"""The way back of a Horde job: one submit per image."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import anyio
from loguru import logger
from yarl import URL

from trt_worker.concurrency import Backoff
from trt_worker.delivery import EncodedImage, IntakeEnd, Receipt, Settlement, UploadSlot
from trt_worker.errors import TransportError
from trt_worker.intake.horde.client import HordeClient
from trt_worker.intake.horde.ledger import Ledger
from trt_worker.intake.horde.messages import Metadata, PoppedJob, Submission, read_reward
from trt_worker.intake.horde.reactions import Endpoint, Reaction, Verdict, react
from trt_worker.job import JobSpec

NAME = "horde"
UNIT = "kudos"

UPLOADED = "R2"
"""What a submit says instead of the image when that is in its slot."""

FAULTED = "faulted"

_LONGEST_WAIT = 30.0  # seconds between two tries of one submit
_LEAST_TRIES = 3  # even when the job has run out of time: the server sweeps only once a minute

_WORST_FIRST = (Settlement.UNACKNOWLEDGED, Settlement.REFUSED, Settlement.UNPAID, Settlement.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What became of one image."""

    settlement: Settlement
    reward: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upward:
    """Where a delivery reports what concerns more than its own job."""

    ledger: Ledger
    fault: Callable[[], None]  # an image was or will be counted as dropped
    fatal: Callable[[str], None]  # the server will not take anything any more; the operator's sentence
    ended: Callable[[IntakeEnd], None]  # a job has its receipt that nobody was offered


class HordeDelivery:
    """How the images of one popped job get back."""

    def __init__(
        self,
        *,
        ids: Sequence[str],
        model: str,
        job: JobSpec | None,
        slots: Sequence[UploadSlot | None],
        metadata: Sequence[Metadata] = (),
        asked: float,
        expires: float,
        first_retry_wait: float,
        client: HordeClient,
        upward: Upward,
    ) -> None:
        """
        Args:
            ids: one per image.
            model: as the server names it.
            job: None when it could not be understood; it can only `fail` then.
            metadata: what every submit has to mention.
            asked, expires: time.monotonic() seconds when the pop was sent, and when the server gives the job up.
        """
        self.slots: Sequence[UploadSlot | None] = tuple(slots)
        self.withdrawn = anyio.Event()
        self.closed = anyio.Event()
        """Set once there is a receipt, or the server has given the job up."""
        self.offered = False
        """Whether somebody has taken the offer; until then its end is counted at intake."""
        self._receipt: Receipt | None = None
        self._ids = tuple(ids)
        self._model = model
        self._job = job
        self._metadata = tuple(metadata)
        self._asked = asked
        self._expires = expires
        self._first_retry_wait = first_retry_wait
        self._client = client
        self._upward = upward

    async def progress(self, fraction: float) -> None:
        """Nothing: the Horde takes no progress. AIPG's `/generate/progress` was an addition of its own, retired."""

    async def deliver(self, images: Sequence[EncodedImage | None]) -> Receipt:
        """Submit every image, all at once; a missing one as faulted, which hands it back to the network once."""
        if self._receipt is not None:
            return self._receipt
        if self.withdrawn.is_set():
            return Receipt(settlement=Settlement.RETURNED, unit=UNIT, detail="the server has given the job up")
        outcomes: list[_Outcome] = []

        async def hand_in(index: int) -> None:
            image = images[index] if index < len(images) else None
            try:
                outcome = await self._hand_in(index, image)
            except Exception as error:  # noqa: BLE001  # one image's; the others are handed in all the same
                outcome = await self._hand_back(index, image, error)
            outcomes.append(outcome)

        try:
            async with anyio.create_task_group() as submits:
                for index in range(len(self._ids)):
                    submits.start_soon(hand_in, index)
            self._receipt = _receipt(outcomes)
        finally:
            self.closed.set()
        if not self.offered:
            self._upward.ended(
                IntakeEnd(
                    id=self._ids[0],
                    model=self._model,
                    transport=NAME,
                    receipt=self._receipt,
                    received=self._asked,
                )
            )
        return self._receipt

    async def fail(self, public: str) -> Receipt:
        """Submit every image as faulted; the Horde has no place for a reason."""
        return await self.deliver([])

    async def give_back(self, reason: str) -> Receipt:
        """Submit every image as faulted: the Horde gives it to another worker."""
        logger.warning("Horde: job {} goes back: {}", self._ids[0], reason)
        return await self.fail(reason)

    def give_up(self) -> None:
        """The server has aborted the job for certain by now: nobody waits for it."""
        for _ in self._ids:
            self._upward.ledger.dropped()
        self._upward.fault()
        self.withdrawn.set()
        self.closed.set()

    async def _hand_back(self, index: int, image: EncodedImage | None, error: Exception) -> _Outcome:
        """After something unexpected: the image goes to another worker, or runs out of time at the server."""
        what = f"an unexpected {type(error).__name__}"
        logger.opt(exception=error).error("Horde: image {} of job {}: {}", index, self._ids[0], what)
        if image is not None:
            try:
                return await self._hand_in(index, None)
            except Exception as second:  # noqa: BLE001  # nothing is left to try
                logger.opt(exception=second).error("Horde: image {} could not be handed back either", index)
        return _Outcome(settlement=Settlement.UNACKNOWLEDGED, detail=what)

    async def _hand_in(self, index: int, image: EncodedImage | None) -> _Outcome:
        if image is None:
            # Counted before it is sent: the same worker would get the image again with its very next pop.
            self._upward.ledger.faulted()
            self._upward.fault()
        submission = self._submission(index, image)
        backoff = Backoff(self._first_retry_wait, _LONGEST_WAIT)
        tries = 0
        while True:
            tries += 1
            reaction, reward = await self._attempt(submission)
            outcome = self._judged(image, reaction, reward)
            if outcome is not None:
                return outcome
            wait = reaction.seconds or backoff.next_wait()
            if time.monotonic() + wait >= self._expires and tries >= _LEAST_TRIES:
                logger.warning("Horde: image {} was not handed in after {} tries: {}", index, tries, reaction.sentence)
                return _Outcome(settlement=Settlement.UNACKNOWLEDGED, detail=reaction.sentence)
            await anyio.sleep(wait)

    async def _attempt(self, submission: Submission) -> tuple[Reaction, float]:
        try:
            answer = await self._client.submit(submission)
            reaction = react(Endpoint.SUBMIT, answer.status, answer.body, answer.retry_after)
            accepted = reaction.verdict is Verdict.DONE and answer.status < 300
            return reaction, read_reward(answer.body) if accepted else 0.0
        except TransportError as error:
            return Reaction(verdict=Verdict.RETRY, sentence=str(error)), 0.0

    def _judged(self, image: EncodedImage | None, reaction: Reaction, reward: float) -> _Outcome | None:
        """What an answer means for the image; None: not settled yet."""
        ledger = self._upward.ledger
        if reaction.verdict is Verdict.FATAL:
            self._upward.fatal(reaction.sentence)
            return _Outcome(settlement=Settlement.REFUSED, detail=reaction.sentence)
        if reaction.verdict not in {Verdict.DONE, Verdict.DROP}:
            return None
        if image is None:
            # AbortedGen, too, says that the server has it as faulted; it was counted already.
            return _Outcome(settlement=Settlement.FAILED, detail=reaction.sentence)
        if reaction.verdict is Verdict.DROP:
            if reaction.counted:
                ledger.dropped()
                self._upward.fault()
            logger.warning("Horde: a result was not taken: {}", reaction.sentence)
            return _Outcome(settlement=Settlement.REFUSED, detail=reaction.sentence)
        ledger.submitted(reward)
        if self._job is not None:
            ledger.watch_speed(self._job, time.monotonic() - self._asked)
        # An image already recorded was paid with the answer that got lost; nothing tells how much.
        paid = reward > 0 or bool(reaction.sentence)
        return _Outcome(
            settlement=Settlement.PAID if paid else Settlement.UNPAID, reward=reward, detail=reaction.sentence
        )

    def _submission(self, index: int, image: EncodedImage | None) -> Submission:
        metadata = list(self._metadata)
        if len(self._ids) > 1:
            metadata.append(Metadata(type="batch_index", value="see_ref", ref=str(index)))
        if image is None:
            seed = self._job.seeds[index].value if self._job is not None else 0
            generation = FAULTED
        else:
            seed = image.seed
            generation = UPLOADED if self.slots[index] is not None else base64.b64encode(image.data).decode("ascii")
        return Submission(
            id=self._ids[index],
            generation=generation,
            state=FAULTED if image is None else "ok",
            seed=seed,
            gen_metadata=metadata,
        )


def upload_slots(job: PoppedJob, ids: Sequence[str]) -> tuple[UploadSlot | None, ...]:
    """Where the images go, one per id; None: inline.

    The server lists slots in the order of the ids. A slot that names an image's id is that image's wherever it
    stands: a list put in another order on its way must not swap two customers' pictures.
    """
    urls = job.r2_uploads or ([job.r2_upload] if job.r2_upload else [])
    named: Mapping[str, str] = {_stem(url): url for url in urls}
    slots: list[UploadSlot | None] = []
    for index, job_id in enumerate(ids):
        url = named.get(job_id) or (urls[index] if index < len(urls) else None)
        # The signature covers the host alone, so a content type is not sent.
        slots.append(UploadSlot(url=url, content_type=None) if url else None)
    return tuple(slots)


def _stem(url: str) -> str:
    try:
        return PurePosixPath(URL(url, encoded=True).path).stem
    except ValueError:
        return ""


def _receipt(outcomes: Sequence[_Outcome]) -> Receipt:
    settled = {outcome.settlement for outcome in outcomes}
    settlement = (
        Settlement.PAID
        if Settlement.PAID in settled
        else next((worst for worst in _WORST_FIRST if worst in settled), Settlement.FAILED)
    )
    return Receipt(
        settlement=settlement,
        reward=sum(outcome.reward for outcome in outcomes),
        unit=UNIT,
        detail="; ".join(dict.fromkeys(outcome.detail for outcome in outcomes if outcome.detail)),
    )
