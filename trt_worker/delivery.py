"""The way back for one job: what a transport hands over with every job it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import anyio
from loguru import logger

from trt_worker.concurrency import first_leaf
from trt_worker.job import ImageFormat, JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSlot:
    """A presigned place for one image."""

    url: str = field(repr=False)  # the query string is a credential: never log it
    content_type: str | None  # sent exactly; None: the signature covers no content type, none is sent


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """One finished image as bytes."""

    index: int
    seed: int
    width: int  # pixels
    height: int
    format: ImageFormat
    data: bytes = field(repr=False)
    sha256: str  # 64 lowercase hex digits of `data`


class Settlement(StrEnum):
    """How the network closed a job."""

    PAID = "paid"
    UNPAID = "unpaid"  # acknowledged with nothing to earn (probe, duplicate, stale)
    UNACKNOWLEDGED = "unacknowledged"  # result sent, no answer in time
    RETURNED = "returned"  # the network has the job back and gives it to somebody else
    REFUSED = "refused"  # the network did not take the result
    FAILED = "failed"  # this worker reported that it could not do it


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What came back for one job."""

    settlement: Settlement
    reward: float = 0.0
    unit: str = ""  # "den" or "kudos"
    detail: str = ""  # one line for the operator


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeEnd:
    """A job that ended before it was offered to the devices: what a transport tells of it, so that it is counted."""

    id: str
    model: str  # as the network names it
    transport: str
    receipt: Receipt
    received: float  # time.monotonic() seconds


class Delivery(Protocol):
    """How one job's result reaches whoever asked for it. Implemented by the transports, used by `submit`."""

    slots: Sequence[UploadSlot | None]
    """One per image, in order; None means the image travels inline with `deliver`."""

    withdrawn: anyio.Event
    """Set when the network has taken the job back: nobody waits for it any more, work on it is wasted."""

    async def progress(self, fraction: float) -> None:
        """Tell the network how far the job is, 0..1. Best effort, rate-limited by the transport, never raises."""

    async def deliver(self, images: Sequence[EncodedImage | None]) -> Receipt:
        """Hand in the result; images with a slot are already uploaded. None: that image could not be made."""

    async def fail(self, public: str) -> Receipt:
        """End the job for its customer, because nobody can run it as it is. `public` may be shown to the customer."""

    async def give_back(self, reason: str) -> Receipt:
        """Hand the job to another worker, because this rig cannot run it now. `reason` is for the operator's log.

        A network that gives the same job to this worker again gets it back as failed: it would circle otherwise.
        """


async def handed_back(job_id: str, delivery: Delivery, error: BaseException) -> Receipt:
    """Hand a job back on whose way something was thrown that nobody foresaw, and say so with its traceback.

    Returns: its receipt, which is an earlier one where the job had ended already. Never raises but for cancellation:
        where the job cannot even be handed back, its network gives it to somebody else once it is overdue.
    """
    error = first_leaf(error)
    what = f"an unexpected {type(error).__name__}"
    logger.opt(exception=error).error("Job {} goes back to the network after {}: {}", job_id, what, error)
    for _ in range(2):
        try:
            return await delivery.give_back(what)
        except Exception as second:  # noqa: BLE001  # tried once more; after that nothing is left to try
            logger.opt(exception=second).error("Job {} could not be handed back either.", job_id)
    return Receipt(settlement=Settlement.RETURNED, detail=what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A job and its way back."""

    job: JobSpec
    delivery: Delivery
    transport: str  # "grid" or "horde": a log field and metric label, nothing decides by it
    network: str = ""  # the network's own host: what it may name as a place for images is judged by it
