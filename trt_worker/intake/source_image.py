"""Source images off the network: fetched or inline, size-checked, and not yet decoded."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

import aiohttp
import anyio.to_thread
from PIL import Image
from yarl import URL

from trt_engines.text import shown
from trt_worker.addresses import is_loopback
from trt_worker.capped import read_capped
from trt_worker.errors import AnswerTooLarge, BadSourceImage
from trt_worker.pictures import FORMATS, MAX_PIXELS, UNREADABLE, picture_size
from trt_worker.sessions import AddressRefused

MAX_REDIRECTS = 3


async def fetch_source_image(session: aiohttp.ClientSession, url: str, *, limit_bytes: int, timeout: float) -> bytes:
    """Download a source image.

    Args:
        session: a guarded one; see `sessions.open_guarded_session`.
        url: https, or http to this machine; its query string is a credential and never logged.
        limit_bytes: more is refused while it arrives, whatever the server announced.
        timeout: seconds for everything.
    Raises: BadSourceImage: the address is not allowed, the server refused, or the answer is too large or no image.
    """
    target = _allowed(url)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            async with session.get(
                target, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=timeout)
            ) as response:
                if response.status in {301, 302, 303, 307, 308}:
                    target = _allowed(str(target.join(URL(response.headers.get("Location", "")))))
                    continue
                if response.status != 200:
                    raise BadSourceImage(f"{_shown(target)} answered {response.status} instead of the source image")
                data = await read_capped(response, limit_bytes)
                check_image_header(data)
                return data
    except AnswerTooLarge as error:
        raise BadSourceImage(f"{_shown(target)} is larger than {limit_bytes} bytes") from error
    except AddressRefused as error:
        raise BadSourceImage(f"{_shown(target)}: {error}") from error
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise BadSourceImage(f"{_shown(target)} could not be fetched: {type(error).__name__}") from error
    raise BadSourceImage(f"{_shown(target)} redirects more than {MAX_REDIRECTS} times")


def decode_base64_image(text: str, limit_bytes: int) -> bytes:
    """An inline source image. Raises: BadSourceImage: not base64, too large, or no image."""
    if len(text) > limit_bytes * 4 // 3 + 4:
        raise BadSourceImage(f"the inline source image is larger than {limit_bytes} bytes")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSourceImage("the inline source image is not base64") from error
    check_image_header(data)
    return data


def check_image_header(data: bytes, max_pixels: int = MAX_PIXELS) -> None:
    """Look at format and number of pixels without decoding the picture, so that it is cheap on the event loop.

    Raises: BadSourceImage: none of `FORMATS`, or more pixels than anybody needs.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, for which the limit here is the stricter one, and of damage
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                width, height = picture.size
    except Image.DecompressionBombError as error:
        raise BadSourceImage(f"the source image has more than {max_pixels / 1e6:.0f} megapixels") from error
    except UNREADABLE as error:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise BadSourceImage(f"the source image ({len(data)} bytes) is not {known}") from error
    if width * height > max_pixels:
        raise BadSourceImage(f"the source image is {width}x{height}, more than {max_pixels / 1e6:.0f} megapixels")


async def measure_source_image(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height of the decoded picture in pixels, which its header does not tell: see `picture_size`.

    Args: max_pixels: a larger picture is not decoded.
    Raises: BadSourceImage: too large, or it cannot be decoded.
    """
    check_image_header(data, max_pixels)
    return await anyio.to_thread.run_sync(picture_size, data)


def _allowed(url: str) -> URL:
    try:
        target = URL(url)
        host = target.host or ""  # decoded here for the first time: no label of it may be damaged, as in xn--a
    except ValueError as error:
        raise BadSourceImage("the source image's address cannot be read") from error
    if target.scheme == "https" or (target.scheme == "http" and is_loopback(host)):
        return target
    raise BadSourceImage(f"{_shown(target)}: source images are fetched over https only")


def _shown(url: URL) -> str:
    return shown(f"{url.scheme}://{url.host or ''}{url.path}")
