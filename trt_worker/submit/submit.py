"""The end of a job: its images are put where they belong, and the network is told."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp
import anyio
from loguru import logger

from trt_worker.concurrency import cancel_when
from trt_worker.delivery import EncodedImage, Offer, Receipt, Settlement, UploadSlot
from trt_worker.errors import TransportError
from trt_worker.submit.upload import Uploader

NOTHING_UPLOADED = "The finished images could not be uploaded."
"""What a customer is told when not one image reached its place."""

_NETWORK_TROUBLE = (TransportError, aiohttp.ClientError, OSError, TimeoutError)


async def submit(offer: Offer, images: Sequence[EncodedImage | None], uploader: Uploader) -> Receipt:
    """Upload the images of a job, all at once, and hand the result in.

    An image that cannot be uploaded is handed in as missing. A job the network takes back meanwhile is not uploaded
    any further. Trouble with the network ends in a receipt and one line in the log, never in an exception.

    Args:
        images: one per seed of the job, in order; None: that image could not be made.
    """
    delivery = offer.delivery
    if delivery.withdrawn.is_set():
        return _returned()
    problems: list[str] = []
    try:
        ready = await _upload_all(offer, images, uploader, problems)
        if ready is None:
            return _returned()
        if any(images) and not any(ready):
            return await delivery.fail(NOTHING_UPLOADED)
        return await delivery.deliver(ready)
    except _NETWORK_TROUBLE as error:
        problems.append(f"result: {error or type(error).__name__}")
        return Receipt(settlement=Settlement.UNACKNOWLEDGED, detail=problems[-1])
    finally:
        if problems:
            logger.warning("Job {} ({}): {}", offer.job.id, offer.transport, "; ".join(problems))


async def _upload_all(
    offer: Offer, images: Sequence[EncodedImage | None], uploader: Uploader, problems: list[str]
) -> list[EncodedImage | None] | None:
    """The images that are where they belong; None: the network took the job back."""
    delivery = offer.delivery
    ready: list[EncodedImage | None] = list(images)

    async def upload(position: int, slot: UploadSlot, image: EncodedImage) -> None:
        try:
            await uploader.put(slot, image, offer.job.due, offer.network)
        except TransportError as error:
            ready[position] = None
            problems.append(str(error))

    async with anyio.create_task_group() as both:
        both.start_soon(cancel_when, delivery.withdrawn, both.cancel_scope)
        async with anyio.create_task_group() as uploads:
            for position, image in enumerate(images):
                if image is None:
                    continue
                if position >= len(delivery.slots):
                    ready[position] = None
                    problems.append(f"image {position}: the network gave no place for it")
                elif (slot := delivery.slots[position]) is not None:
                    uploads.start_soon(upload, position, slot, image)
        both.cancel_scope.cancel()
    return None if delivery.withdrawn.is_set() else ready


def _returned() -> Receipt:
    return Receipt(
        settlement=Settlement.RETURNED, detail="the network took the job back before its images were uploaded"
    )
