"""One worker name on the grid: connects, registers, and comes back whenever that makes sense."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import aiohttp
import anyio
from loguru import logger

from trt_engines.model import Model
from trt_worker.concurrency import Backoff, Stop, first_leaf
from trt_worker.intake.grid import frames
from trt_worker.intake.grid.reactions import Reaction, Verdict, react
from trt_worker.intake.grid.session import Leaving, Session, Shop
from trt_worker.sessions import why_unreached

HEARTBEAT_SECONDS = 30.0
LARGEST_FRAME = 16 * 2**20  # bytes; a graph has some kilobytes

_TROUBLE = (aiohttp.ClientError, TimeoutError, OSError)


class Connection:
    """One name. `run` once; it returns why the name cannot be used any more, or nothing after `stop`."""

    def __init__(self, name: str, shop: Shop, *, settled_in: Callable[[], None]) -> None:
        """
        Args:
            settled_in: called when it is registered, or clear that it keeps trying.
        """
        self.name = name
        self.session: Session | None = None
        self._shop = shop
        self._settled_in = settled_in
        self._stop = Stop()
        self._lost = Backoff(shop.settings.first_retry_wait, shop.settings.longest_retry_wait)
        self._refused = Backoff(shop.settings.first_retry_wait, shop.settings.longest_retry_wait)
        self._evictions = 0
        self._lives = 0

    def stop(self) -> None:
        """Take no further job."""
        self._stop.request()
        if self.session is not None:
            self.session.stop()

    def refresh(self) -> None:
        """Other models may be offered now: register with them, in the next gap."""
        if self.session is not None:
            self.session.refresh()

    async def run(self) -> str:
        """Until stopped. Returns: why this name is over for good; empty: it was stopped."""
        while not self._stop.requested:
            offered = await self._models()
            if self._stop.requested:
                break
            reaction = await self._live(offered)
            if self._stop.requested:
                break
            if reaction is not None and (ended := await self._react(reaction)):
                logger.error("Grid {}: this connection ends: {}", self.name, ended)
                return ended
        return ""

    def _settle_in(self) -> None:
        """It is registered, or waits for something."""
        self._shop.renewals.end(self.name)
        self._settled_in()

    async def _models(self) -> Mapping[str, Model]:
        """What to register with, once there is something."""
        while not (offered := self._shop.catalogue.offered()) and not self._stop.requested:
            self._settle_in()
            changed = self._shop.catalogue.changed
            with self._stop.ends():
                await changed.wait()
        return offered

    async def _live(self, offered: Mapping[str, Model]) -> Reaction | None:
        """One life; None: there is nothing to react to, just connect again."""
        settings = self._shop.settings
        socket: aiohttp.ClientWebSocketResponse | None = None
        try:
            with self._stop.ends(), anyio.fail_after(settings.open_seconds):
                socket = await self._shop.http.ws_connect(
                    settings.worker_url,
                    heartbeat=HEARTBEAT_SECONDS,
                    max_msg_size=LARGEST_FRAME,
                    timeout=aiohttp.ClientWSTimeout(ws_close=5.0),
                    ssl=settings.ssl_context or True,
                )
            if socket is None:
                return None
            refusal: str | None = "not asked"
            with self._stop.ends(), anyio.fail_after(settings.open_seconds):
                refusal = await self._register(socket, offered)
            if self._stop.requested:
                return None
            if refusal is not None:
                return react(socket.close_code, refusal)
            return await self._serve(socket, offered)
        except _TROUBLE as error:
            return Reaction(verdict=Verdict.RETRY, sentence=why_unreached(error))
        except Exception as error:  # noqa: BLE001  # said here; the other connections go on
            cause = first_leaf(error)
            logger.opt(exception=cause).error("Grid {}: an unexpected {}", self.name, type(cause).__name__)
            return Reaction(verdict=Verdict.RETRY, sentence=f"ended by an unexpected {type(cause).__name__}")
        finally:
            if socket is not None:
                with anyio.CancelScope(shield=True):
                    await socket.close()

    async def _register(self, socket: aiohttp.ClientWebSocketResponse, offered: Mapping[str, Model]) -> str | None:
        """None: we are in. Otherwise what the grid said before it closed."""
        settings = self._shop.settings
        models, agent = sorted(offered), settings.bridge_agent
        identity = None
        if self._shop.delegations is not None:
            prove = partial(
                self._shop.delegations.prove, name=self.name, models=models, bridge_agent=agent, now=int(time.time())
            )
            identity = await anyio.to_thread.run_sync(prove)
        await socket.send_str(
            frames.register_frame(
                key=settings.api_key, name=self.name, models=models, bridge_agent=agent, identity=identity
            )
        )
        said = ""
        async for message in socket:
            if message.type is aiohttp.WSMsgType.ERROR:
                break
            frame = frames.parse_frame(message.data) if message.type is aiohttp.WSMsgType.TEXT else None
            if isinstance(frame, frames.Ready):
                return None
            if isinstance(frame, frames.Error):
                said = str(frame.message)
        return said

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse, offered: Mapping[str, Model]) -> Reaction | None:
        ledger = self._shop.ledger
        ledger.reconnects += bool(self._lives)
        self._lives += 1
        self._lost.reset()
        self._evictions = 0
        logger.info("Grid {}: connected, offering {}", self.name, ", ".join(sorted(offered)))
        session = self.session = Session(self.name, socket, offered, self._shop)
        self._settle_in()
        try:
            await session.run()
        finally:
            self.session = None
        if session.took_jobs:
            self._refused.reset()
        if session.leaving is Leaving.REFUSED:
            await self._wait(self._refused.next_wait())
        return None if session.leaving is not None else react(socket.close_code)

    async def _react(self, reaction: Reaction) -> str:
        """Wait as long as it takes. Returns: why the name is over for good, or nothing."""
        settings = self._shop.settings
        match reaction.verdict:
            case Verdict.FATAL:
                return reaction.sentence
            case Verdict.TAKEN:
                return await self._stand_aside(reaction.sentence)
            case Verdict.RETIRED if self._shop.catalogue.retire(reaction.models):
                return ""
            case Verdict.EVICTED:
                seconds = settings.eviction_waits[min(self._evictions, len(settings.eviction_waits) - 1)]
                self._evictions += 1
            case _:
                seconds = self._lost.next_wait()
        logger.warning("Grid {}: {}; next try in {:.1f} s", self.name, reaction.sentence, seconds)
        self._settle_in()
        await self._wait(seconds)
        return ""

    async def _stand_aside(self, sentence: str) -> str:
        """Wait until nobody has the name. A server that restarts closes with the same code as a newer connection does.

        Source: RFC 6455's registry calls 1012 "service restart", and uvicorn sends it to every socket when it stops.
        """
        settings, began = self._shop.settings, time.monotonic()
        logger.warning(
            "Grid {}: {}, or the grid restarts; looking every {:g} s whether it is free",
            self.name,
            sentence,
            settings.look_seconds,
        )
        self._settle_in()
        while not self._stop.requested:
            online: frozenset[str] | None = None
            with self._stop.ends():
                online = await self._shop.presence.online()
            if online is None:
                continue  # not readable, or we are told to stop
            if self.name not in online:
                return ""
            if time.monotonic() - began >= settings.takeover_wait:
                return f"{sentence}; give every worker a name of its own"
        return ""

    async def _wait(self, seconds: float) -> None:
        with self._stop.ends():
            await anyio.sleep(seconds)
