"""Source images: what a customer sent, turned into what the VAE encoder takes."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trt_engines.errors import NotFinite
from trt_engines.sessions.host_calls import HostCall, HostCalls
from trt_worker.errors import BadSourceImage

MAX_SOURCE_PIXELS = 8192 * 8192
"""Larger images are refused before they are decoded: a file of a few kB can claim any size."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What is decoded; a decoder nobody needs is only a way in."""

# What Pillow's decoders raise on damaged files; DecompressionBomb* are its own size guards.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    EOFError,
    AttributeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class SourceEncoding:
    """One source image on its way through the VAE encoder."""

    def __init__(self, call: HostCall, label: str) -> None:
        self._call = call
        self._label = label

    @property
    def done(self) -> bool:
        """Whether its result is there; never waits."""
        return self._call.done

    def result(self) -> NDArray[np.float32]:
        """The latent, float32 [channels, height / scale, width / scale]; waits for it.

        Raises: NotFinite: it holds values that are not finite.
        """
        latent: NDArray[np.float32] = self._call.results()["latent"][0]
        if not np.isfinite(latent).all():
            raise NotFinite(f"{self._label}: the encoded source image holds values that are not finite")
        return latent


class SourceEncoder:
    """One VAE encoder for one size. Args: calls: of its engine."""

    def __init__(self, calls: HostCalls) -> None:
        self.calls = calls
        _, _, self._height, self._width = calls.engine.tensor("pixels").shape

    def begin(self, data: bytes, *, crop: bool) -> SourceEncoding:
        """Put a source image into the engine's stream. Args: see `source_pixels`.

        Raises: BadSourceImage. EngineFault, OutOfMemory: the call was refused.
        """
        pixels = source_pixels(data, self._width, self._height, crop)
        return SourceEncoding(self.calls.begin(1, {"pixels": pixels[np.newaxis]}), self.calls.engine.label)


def source_pixels(data: bytes, width: int, height: int, crop: bool) -> NDArray[np.float32]:
    """Decode an image and bring it to size; blocks for some ten milliseconds, so not for the event loop.

    The camera's orientation is applied. Transparency is dropped and the colour under it kept, as the network's other
    workers do it. Sixteen-bit greys keep their upper eight bits.

    Args:
        data: an encoded image, not trusted.
        width, height: size wanted in pixels.
        crop: True: cover the size and cut off what sticks out, evenly on both sides; False: stretch.
    Returns: float32 [3, height, width], -1..1.
    Raises: BadSourceImage: not an image, damaged, or too large.
    """
    picture = _decode(data)
    if crop:
        picture = picture.crop(_covering_box(picture.width, picture.height, width, height))
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, np.float32)
    pixels = pixels / np.float32(255) * np.float32(2) - np.float32(1)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _decode(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_SOURCE_PIXELS:
                raise BadSourceImage(
                    f"the source image claims {opened.width}x{opened.height} pixels, "
                    f"more than {MAX_SOURCE_PIXELS / 1e6:.0f} million"
                )
            upright = ImageOps.exif_transpose(opened)
            return _rgb(upright)
    except _UNREADABLE as error:
        raise BadSourceImage(
            f"the source image ({len(data)} bytes) cannot be decoded: {type(error).__name__}"
        ) from error


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        wide = np.asarray(picture, np.int64)
        return Image.fromarray(np.clip(wide >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


def _covering_box(width: int, height: int, wanted_width: int, wanted_height: int) -> tuple[int, int, int, int]:
    """Largest box of the wanted proportions in the middle of an image: left, top, right, bottom."""
    left = top = 0
    if width * wanted_height > wanted_width * height:
        left = round((width - height * wanted_width / wanted_height) / 2)
    elif width * wanted_height < wanted_width * height:
        top = round((height - width * wanted_height / wanted_width) / 2)
    # An extreme strip would be cut to nothing: one line always remains.
    left, top = min(left, (width - 1) // 2), min(top, (height - 1) // 2)
    return left, top, width - left, height - top
