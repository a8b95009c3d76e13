"""Finished images to the places the network signed for them."""

from __future__ import annotations

import io
import random
import re
import time
from collections.abc import Callable

import aiohttp
import anyio
from yarl import URL

from trt_worker.addresses import is_loopback
from trt_worker.delivery import EncodedImage, UploadSlot
from trt_worker.errors import TransportError
from trt_worker.sessions import AddressRefused

ATTEMPT_SECONDS = 60.0
"""Longest one attempt may take: enough for some MB over a slow line, short enough to notice a dead one."""

LEAST_SECONDS = 2.0
"""The first attempt gets this much even when the job is due already: the network may still take it."""

FIRST_WAIT = 0.25  # seconds before the second attempt; doubles with each further one
LONGEST_WAIT = 8.0  # seconds

_PASSING = frozenset({408, 425, 429})
"""Answers of the 4xx range that say "not now" instead of "never"."""

_STORAGE_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")
_BODY_LOOKED_AT = 2048


class Uploader:
    """Puts images into upload slots.

    Args:
        sessions: the session for slots that a network gives, by the network's host.
    """

    def __init__(
        self,
        sessions: Callable[[str], aiohttp.ClientSession],
        *,
        attempt_seconds: float = ATTEMPT_SECONDS,
        first_wait: float = FIRST_WAIT,
    ) -> None:
        self._sessions = sessions
        self._attempt_seconds = attempt_seconds
        self._first_wait = first_wait

    async def put(self, slot: UploadSlot, image: EncodedImage, due: float, network: str = "") -> None:
        """Upload one image; server errors, time-outs and resets are tried again until `due`.

        Args:
            due: time.monotonic() seconds.
            network: host of the network that gave the slot; empty: unknown, so it leads to public addresses only.
        Raises: TransportError: the slot refused the image, is not safe to use, or did not take it in time. The
            message names host and path, never the query string: that is a credential.
        """
        url = _checked(slot.url)
        session = self._sessions(network)
        where = f"image {image.index} to {_plain(url)}"
        headers = {} if slot.content_type is None else {"Content-Type": slot.content_type}
        wait = self._first_wait
        tries = 0
        while True:
            tries += 1
            left = max(due - time.monotonic(), LEAST_SECONDS if tries == 1 else 0.0)
            problem = await self._attempt(session, url, headers, image.data, min(left, self._attempt_seconds), where)
            if problem is None:
                return
            pause = wait * random.uniform(0.5, 1.0)  # jitter: many jobs fail together when a store restarts
            if time.monotonic() + pause >= due:
                raise TransportError(f"{where}: {problem}; given up after {tries} tries, the job is due")
            await anyio.sleep(pause)
            wait = min(wait * 2, LONGEST_WAIT)

    async def _attempt(
        self, session: aiohttp.ClientSession, url: URL, headers: dict[str, str], data: bytes, seconds: float, where: str
    ) -> str | None:
        """One try; None: the image is there, else why it is worth another try."""
        try:
            async with session.put(
                url,
                data=io.BytesIO(data),
                headers=headers,
                # aiohttp would add a Content-Type that the signature does not cover, and the store would refuse it.
                skip_auto_headers=() if headers else ("Content-Type",),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as answer:
                if 200 <= answer.status < 300:
                    return None
                problem = f"HTTP {answer.status}{await _storage_code(answer)}"
                if answer.status >= 500 or answer.status in _PASSING:
                    return problem
                raise TransportError(f"{where}: {problem}; the slot does not take this image, so it is not tried again")
        except AddressRefused as error:
            raise TransportError(f"{where}: {error}; the image was not sent") from error
        except TimeoutError:
            return f"no answer within {seconds:.0f} s"
        except (aiohttp.ClientError, OSError) as error:
            # The text of these errors may hold the whole address: name the kind only.
            return f"connection failed ({type(error).__name__})"


async def _storage_code(answer: aiohttp.ClientResponse) -> str:
    """The store's own error word, as in ` AccessDenied`. The rest of its answer may repeat the signature."""
    found = _STORAGE_CODE.search(await answer.content.read(_BODY_LOOKED_AT))
    return f" {found.group(1).decode()}" if found else ""


def _checked(address: str) -> URL:
    try:
        url = URL(address, encoded=True)  # as signed: quoting it again would break the signature
        host, usable = url.host, url.scheme in {"http", "https"}
    except ValueError:
        host, usable = None, False
    if not usable or not host:
        raise TransportError("upload slot: its address is not an http(s) URL, so the image was not sent")
    if url.scheme != "https" and not is_loopback(host):
        raise TransportError(f"upload slot at {_plain(url)}: not https, so the image was not sent")
    return url


def _plain(url: URL) -> str:
    """Scheme, host, port and path, for messages."""
    port = "" if url.is_default_port() or url.explicit_port is None else f":{url.explicit_port}"
    return f"{url.scheme}://{url.host}{port}{url.raw_path}"
