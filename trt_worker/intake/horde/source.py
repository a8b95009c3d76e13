"""The source image of a popped job: an address, or the image itself as base64."""

from __future__ import annotations

import aiohttp
from loguru import logger

from trt_worker.errors import BadSourceImage, TransportError
from trt_worker.intake.horde.messages import Metadata
from trt_worker.intake.horde.settings import HordeSettings
from trt_worker.intake.horde.translate import LARGEST_SIDE
from trt_worker.intake.source_image import check_image_header, decode_base64_image, fetch_source_image


async def fetch_source(session: aiohttp.ClientSession, source: str, settings: HordeSettings) -> bytes | Metadata:
    """The image, encoded as it came; or, where it cannot be had, what the submits have to say about that.

    The network's other workers then draw the job without the image, and so do we: the requester reads why.
    """
    limit = settings.source_limit_bytes
    value = "parse_failed"
    try:
        if source.startswith(("https://", "http://")):
            value = "download_failed"
            data = await fetch_source_image(session, source, limit_bytes=limit, timeout=settings.source_timeout)
            value = "parse_failed"
        else:
            data = decode_base64_image(source, limit)
        check_image_header(data, LARGEST_SIDE * LARGEST_SIDE)
    except (BadSourceImage, TransportError) as error:
        logger.warning("Horde: a source image is left out of its job: {}", error)
        return Metadata(type="source_image", value=value)
    return data
