"""The server's endpoints, one call each."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from trt_worker.capped import read_capped
from trt_worker.errors import TransportError
from trt_worker.intake.horde.messages import PopRequest, Submission
from trt_worker.intake.horde.settings import HordeSettings
from trt_worker.sessions import why_unreached

MAX_ANSWER_BYTES = 96 * 1024 * 1024
"""A pop may carry a source image and its mask as base64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, not judged."""

    status: int
    body: bytes = field(repr=False)
    retry_after: float | None = None  # seconds, as the header says; see `reactions.react` for when it means anything


class HordeClient:
    """A thin shell around one HTTP session. Every call raises TransportError when no answer could be had."""

    def __init__(self, session: aiohttp.ClientSession, settings: HordeSettings) -> None:
        self._session = session
        self._base = settings.base_url
        self._timeout = aiohttp.ClientTimeout(total=settings.call_timeout)
        self._headers = {
            "apikey": settings.api_key,
            "Client-Agent": settings.bridge_agent,
            "Content-Type": "application/json",
            "Accept": "application/json",
        }

    async def pop(self, request: PopRequest) -> Answer:
        """Ask for work. The server answers at once, job or not."""
        return await self._call("POST", "/generate/pop", request)

    async def submit(self, submission: Submission) -> Answer:
        """Hand in one image."""
        return await self._call("POST", "/generate/submit", submission)

    async def find_user(self) -> Answer:
        """The account behind the key."""
        return await self._call("GET", "/find_user")

    async def find_worker(self, name: str) -> Answer:
        """A worker by its name."""
        return await self._call("GET", f"/workers/name/{quote(name, safe='')}")

    async def set_maintenance(self, worker_id: str, wanted: bool) -> Answer:
        """Put a worker into maintenance or out of it."""
        return await self._call("PUT", f"/workers/{quote(worker_id, safe='')}", {"maintenance": wanted})

    async def _call(self, method: str, path: str, body: msgspec.Struct | dict[str, bool] | None = None) -> Answer:
        try:
            async with self._session.request(
                method,
                URL(self._base + path, encoded=True),
                data=None if body is None else msgspec.json.encode(body),
                headers=self._headers,
                timeout=self._timeout,
                allow_redirects=False,  # the key would go along to wherever the redirect points
            ) as response:
                return Answer(
                    status=response.status,
                    body=await read_capped(response, MAX_ANSWER_BYTES),
                    retry_after=_seconds(response.headers.get("Retry-After")),
                )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise TransportError(
                f"{method} {path} at {URL(self._base).host} got no answer ({why_unreached(error)})"
            ) from error


def _seconds(header: str | None) -> float | None:
    """`Retry-After` as seconds; its other form, a date, is not used by these servers."""
    return float(header) if header is not None and header.isascii() and header.isdigit() else None
