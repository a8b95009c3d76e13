"""Pictures that come from outside: which formats are read, how large they may be, and what of a file is drawn."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageFile, ImageOps

from trt_worker.errors import BadSourceImage

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is read; a decoder nobody needs is only a way in."""

MAX_PIXELS = 8192 * 8192
"""Larger pictures are refused before they are decoded: a file of a few kB can claim any size."""

UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow's decoders raise on damaged files; the last two are its own guards against claimed sizes."""

_JPEG_END = b"\xff\xd9"


def read_picture(data: bytes) -> Image.Image:
    """The picture in a file as RGB, upright; blocks for some ten milliseconds, so not for the event loop.

    The camera's orientation is applied. Of several frames the first is taken. Transparency is dropped and the colour
    under it kept. Greys of more than eight bits become 0 to 255 by a division by 255. Of a file that is cut short or
    damaged, what can be decoded is drawn, and the rest stays as the decoder leaves it.

    Args:
        data: the file, not trusted.
    Returns: mode RGB.
    Raises: BadSourceImage: no picture of a format in `FORMATS`, damaged before its first pixel, or too large.
    Source: ComfyUI's LoadImage. Greys of 16 bits are white in those of its versions whose Pillow reads them as `I;16`;
        here they are what its older versions made of them.
    """
    try:
        with _open(data) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise BadSourceImage(
                    f"the source image claims {opened.width}x{opened.height} pixels, "
                    f"more than {MAX_PIXELS / 1e6:.0f} million"
                )
            return _rgb(ImageOps.exif_transpose(_decoded(opened, data)))
    except UNREADABLE as error:
        raise BadSourceImage(
            f"the source image ({len(data)} bytes) cannot be decoded: {type(error).__name__}"
        ) from error


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height of a picture in pixels, upright. Only the decoded picture tells: a file may say which way up it
    is behind its pixels. Blocks as `read_picture` does, with its errors."""
    return read_picture(data).size


def _open(data: bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _decoded(picture: ImageFile.ImageFile, data: bytes) -> ImageFile.ImageFile:
    """The picture with its pixels, of a damaged one with those that are there.

    Pillow's own switch for this, LOAD_TRUNCATED_IMAGES, is one for all threads and keeps a JPEG's decoder from waiting
    for more by an end mark; both is done here for this picture alone.
    """
    try:
        picture.load()
        return picture
    except (OSError, ValueError):
        if picture.format not in {"JPEG", "MPO"}:
            return _what_is_there(picture)
    with_end = _open(data + _JPEG_END)
    try:
        with_end.load()
        return with_end
    except (OSError, ValueError):
        return _what_is_there(with_end)


def _what_is_there(picture: ImageFile.ImageFile) -> ImageFile.ImageFile:
    """A picture whose decoding failed, as it was then. Raises: OSError: it had not begun."""
    if picture.tile:  # it failed in the middle: nothing more is to be decoded, and what comes after decoding is due
        picture.tile = []
        picture.load_end()
    picture.load()
    return picture


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        levels = np.asarray(picture, np.float64) * (1 / 255)
        return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")
