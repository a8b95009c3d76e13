"""Which workers the grid lists as online: one look at its list serves all connections that want to know.

Source: the AIPG coordinator, read: a name is listed while its connection is up, and for up to 60 s after one that ended
without a trace.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import aiohttp
import anyio
import msgspec
from loguru import logger
from yarl import URL

from trt_worker.capped import read_capped
from trt_worker.errors import AnswerTooLarge
from trt_worker.intake.grid.frames import UNREADABLE
from trt_worker.intake.grid.settings import GridSettings
from trt_worker.sessions import why_unreached

LARGEST_LIST = 8 * 2**20  # bytes; a worker has some hundred


@dataclass(slots=True)
class _Look:
    """One look at the list, for whoever asked before it began."""

    done: anyio.Event = field(default_factory=anyio.Event)
    online: frozenset[str] | None = None


class Presence:
    """The grid's list of workers, read while somebody asks for it."""

    def __init__(self, settings: GridSettings) -> None:
        self.looks = 0  # at the list, since the start
        self._settings = settings
        self._asked = anyio.Event()
        self._next = _Look()
        self._readable = True

    async def online(self) -> frozenset[str] | None:
        """The names online, by a look that begins after this call and within `look_seconds`.

        Returns: None: the list could not be read.
        """
        look = self._next
        self._asked.set()
        await look.done.wait()
        return look.online

    async def run(self, http: aiohttp.ClientSession) -> None:
        """Look once for all who have asked within `look_seconds` of the first; until cancelled."""
        while True:
            await self._asked.wait()
            await anyio.sleep(self._settings.look_seconds)
            look, self._next, self._asked = self._next, _Look(), anyio.Event()
            look.online = await self._look(http)
            look.done.set()

    async def _look(self, http: aiohttp.ClientSession) -> frozenset[str] | None:
        self.looks += 1
        try:
            online = await self._read(http)
        except (aiohttp.ClientError, TimeoutError, OSError, AnswerTooLarge, *UNREADABLE) as error:
            if self._readable:
                logger.warning(
                    "Grid {}: the list of workers cannot be read ({}); looking again every {:g} s",
                    URL(self._settings.http_url).host,
                    why_unreached(error),
                    self._settings.look_seconds,
                )
            self._readable = False
            return None
        self._readable = True
        return online

    async def _read(self, http: aiohttp.ClientSession) -> frozenset[str]:
        """Raises: ValueError: the answer is no list of workers."""
        settings = self._settings
        async with http.get(
            settings.workers_url,
            timeout=aiohttp.ClientTimeout(total=settings.call_timeout),
            ssl=settings.ssl_context or True,
        ) as response:
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}")
            body = msgspec.json.decode(await read_capped(response, LARGEST_LIST))
        workers = body.get("workers") if isinstance(body, dict) else None
        if not isinstance(workers, list):
            raise ValueError("no list of workers")
        return frozenset(
            name
            for worker in workers
            if isinstance(worker, dict) and worker.get("online") is True and isinstance(name := worker.get("name"), str)
        )
