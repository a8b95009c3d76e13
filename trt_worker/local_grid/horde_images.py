"""Images as the Horde keeps and hands them out."""

from __future__ import annotations

import base64
import binascii
from io import BytesIO

from PIL import Image

from trt_worker.local_grid.horde_errors import refused
from trt_worker.local_grid.horde_state import Generation
from trt_worker.local_grid.storage import Storage


def decoded(text: str) -> bytes | None:
    """The bytes of base64; None: it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def source_image(text: str) -> bytes:
    """A source image as the server keeps it: WebP of quality 50, transparency kept.

    Raises: HordeError: 400, it is not one.
    """
    data = decoded(text)
    try:
        with Image.open(BytesIO(data or b"")) as image:
            buffer = BytesIO()
            image.save(buffer, "WEBP", quality=50)
            return buffer.getvalue()
    except OSError as error:
        raise refused(400, "BadRequest", "The source image could not be read.") from error


def result_text(generation: Generation, storage: Storage, *, seconds: int) -> str:
    """What the requester gets for an image: an address, base64 with `r2` false, or whatever the worker sent.

    Args:
        seconds: that the address holds.
    """
    stored = storage.head(generation.upload_key)
    if stored is None and generation.result != "R2":
        return generation.result
    if stored is not None and not generation.request.flag("r2", True):
        return base64.b64encode(stored.data).decode()
    return storage.address(generation.upload_key, seconds=seconds)
