"""The way back of a grid job: one `done` frame on the connection that brought it, and the wait for its `ack`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Protocol

import anyio
import anyio.to_thread
from loguru import logger

from trt_worker.delivery import EncodedImage, Receipt, Settlement, UploadSlot
from trt_worker.errors import BadJob
from trt_worker.intake.grid import frames
from trt_worker.intake.grid.signer import RigKey

UNIT = "den"


class Line(Protocol):
    """The connection a job came on."""

    async def say(self, delivery: GridDelivery, text: str) -> bool:
        """Send a frame about a job; False, and nothing sent, if it is not the connection's current one any more."""

    async def give_back(self, delivery: GridDelivery, reason: str) -> Receipt:
        """Hand a job to another worker; as failed if this worker has given it back before."""

    def settled(self, delivery: GridDelivery, receipt: Receipt) -> None:
        """A job is closed, and the connection free for the next."""


class GridDelivery:
    """How the images of one job get back. Settled once, by whatever comes first."""

    def __init__(
        self,
        *,
        job_id: str,
        model: str,
        received: float,
        slots: Sequence[UploadSlot],
        line: Line,
        ack_seconds: float,
        progress_seconds: float,
        signer: RigKey | None,
    ) -> None:
        """
        Args:
            received: time.monotonic() seconds.
        """
        self.job_id = job_id
        self.model = model
        self.received = received
        self.offered = False  # until somebody has taken the offer, its end is counted at intake
        self.slots: Sequence[UploadSlot | None] = tuple(slots)
        self.withdrawn = anyio.Event()
        self.handed_in = False
        self.receipt: Receipt | None = None
        self._settled = anyio.Event()
        self._line = line
        self._ack_seconds = ack_seconds
        self._progress_seconds = progress_seconds
        self._signer = signer
        self._next_progress = -math.inf

    async def progress(self, fraction: float) -> None:
        """Tell the customer how far the job is, 0..1; at most once every few seconds."""
        now = time.monotonic()
        if self.receipt is not None or self.handed_in or now < self._next_progress:
            return
        self._next_progress = now + self._progress_seconds
        percent = min(max(round(fraction * 100), 0), 100)
        await self._line.say(self, frames.progress_frame(self.job_id, percent))

    async def deliver(self, images: Sequence[EncodedImage | None]) -> Receipt:
        """Hand in the uploaded images and wait for the answer. The grid takes all of a job's images or none."""
        if self.receipt is not None:
            return self.receipt
        made = [image for image in images if image is not None]
        if len(made) != len(self.slots):
            logger.warning("Grid: job {} has {} of {} image(s)", self.job_id, len(made), len(self.slots))
            return await self.fail(BadJob.public)
        results = [(image.index, image.sha256.lower(), image.seed) for image in made]
        signature = await self._signature([digest for _, digest, _ in sorted(results)])
        self.handed_in = True  # before the frame leaves: its answer may come while it is being written
        if not await self._line.say(self, frames.done_frame(self.job_id, results, signature)):
            return self.settle(Settlement.RETURNED, "the connection was gone before the result could be sent")
        with anyio.move_on_after(self._ack_seconds):
            await self._settled.wait()
        return self.settle(Settlement.UNACKNOWLEDGED, f"no answer within {self._ack_seconds:.0f} s")

    async def fail(self, public: str) -> Receipt:
        """Give the job up: terminal for the customer, who reads `public`."""
        if self.receipt is not None:
            return self.receipt
        if await self._line.say(self, frames.error_frame(self.job_id, public)):
            return self.settle(Settlement.FAILED, public)
        return self.settle(Settlement.RETURNED, "the connection was gone")

    async def give_back(self, reason: str) -> Receipt:
        """Hand the job to another worker, which the grid does when its connection closes."""
        if self.receipt is not None:
            return self.receipt
        return await self._line.give_back(self, reason)

    async def _signature(self, digests: Sequence[str]) -> str | None:
        if self._signer is None:
            return None
        return await anyio.to_thread.run_sync(self._signer.sign, self.job_id, digests)

    def settle(self, settlement: Settlement, detail: str = "", reward: float = 0.0) -> Receipt:
        """Close the job; the receipt, which is the first one's if it was closed before."""
        if self.receipt is not None:
            return self.receipt
        receipt = self.receipt = Receipt(settlement=settlement, reward=reward, unit=UNIT, detail=detail)
        self._settled.set()
        if settlement is Settlement.RETURNED:
            self.withdrawn.set()
        elif settlement is Settlement.UNACKNOWLEDGED:
            logger.warning("Grid: the result of job {} was not acknowledged: {}", self.job_id, detail)
        self._line.settled(self, receipt)
        return receipt
