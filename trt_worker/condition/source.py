"""Source images: what a customer sent, turned into what the VAE encoder takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trt_engines.errors import NotFinite
from trt_engines.sessions.host_calls import HostCall, HostCalls
from trt_engines.sessions.tiled_calls import TiledCall, TiledCalls
from trt_worker.errors import BadSourceImage
from trt_worker.job import SourceFit
from trt_worker.pictures import read_picture


class SourceEncoding:
    """One source image on its way through the VAE encoder."""

    def __init__(self, call: HostCall | TiledCall, label: str) -> None:
        self._call = call
        self._label = label

    @property
    def done(self) -> bool:
        """Whether its result is there; never waits."""
        return self._call.done

    def result(self) -> NDArray[np.float32]:
        """The latent, float32 [channels, height / scale, width / scale]; waits for it.

        Raises: NotFinite: it holds values that are not finite. EngineFault, OutOfMemory: one of its tiles was refused.
        """
        latent: NDArray[np.float32] = self._call.results()["latent"][0]
        if not np.isfinite(latent).all():
            raise NotFinite(f"{self._label}: the encoded source image holds values that are not finite")
        return latent


class SourceEncoder:
    """One VAE encoder for one size.

    Args:
        calls: of its engine, whole or in tiles.
        width, height: of the pictures, in pixels.
    """

    def __init__(self, calls: HostCalls | TiledCalls, width: int, height: int) -> None:
        self.calls = calls
        self._width, self._height = width, height

    def begin(self, data: bytes, fit: SourceFit) -> SourceEncoding:
        """Put a source image into the engine's stream. Args: see `source_pixels`.

        Raises: BadSourceImage. EngineFault, OutOfMemory: the call was refused.
        """
        pixels = source_pixels(data, self._width, self._height, fit)
        return SourceEncoding(self.calls.begin(1, {"pixels": pixels[np.newaxis]}), self.calls.engine.label)


def source_pixels(data: bytes, width: int, height: int, fit: SourceFit) -> NDArray[np.float32]:
    """Decode an image and bring it to size; blocks for some ten milliseconds, so not for the event loop.

    Args:
        data: an encoded image, not trusted; see `read_picture`.
        width, height: size wanted in pixels.
        fit: how it is brought to that size.
    Returns: float32 [3, height, width], -1..1.
    Raises: BadSourceImage: not an image, or too large; or too small for what is to be cut out of it.
    """
    picture = read_picture(data)
    match fit:
        case SourceFit.COVER:
            picture = picture.crop(_covering_box(picture.width, picture.height, width, height))
        case SourceFit.CUT:
            picture = picture.crop(_middle_box(picture.width, picture.height, width, height))
        case SourceFit.STRETCH:
            pass
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, np.float32)
    pixels = pixels / np.float32(255) * np.float32(2) - np.float32(1)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _middle_box(width: int, height: int, wanted_width: int, wanted_height: int) -> tuple[int, int, int, int]:
    """The middle of an image: left, top, right, bottom. Of an odd rest, more is left out at the right and the bottom.

    Source: ComfyUI's VAE, which encodes whole latent cells: it cuts off a remainder r from r // 2 on.
    """
    if width < wanted_width or height < wanted_height:
        raise BadSourceImage(f"the source image is {width}x{height}, smaller than {wanted_width}x{wanted_height}")
    left, top = (width - wanted_width) // 2, (height - wanted_height) // 2
    return left, top, left + wanted_width, top + wanted_height


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
