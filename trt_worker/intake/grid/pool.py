"""Work from the grid: as many connections as it takes, each with one job at a time."""

from __future__ import annotations

import time

import aiohttp
import anyio
from anyio.abc import ObjectSendStream, TaskStatus
from loguru import logger
from yarl import URL

from trt_worker.concurrency import StartedOnce
from trt_worker.delivery import Offer
from trt_worker.errors import TransportClosed
from trt_worker.intake.grid.catalogue import Catalogue
from trt_worker.intake.grid.connection import Connection
from trt_worker.intake.grid.delegation import read_delegations
from trt_worker.intake.grid.ledger import Ledger
from trt_worker.intake.grid.presence import Presence
from trt_worker.intake.grid.renewals import Renewals
from trt_worker.intake.grid.session import TRANSPORT, Shop
from trt_worker.intake.grid.settings import FIXED, GridSettings
from trt_worker.intake.grid.signer import read_rig_key
from trt_worker.intake.transport import Gate, check_adoptable
from trt_worker.network_state import NetworkState
from trt_worker.sessions import open_guarded_session, open_session


class GridTransport:
    """One worker on the grid; `run` it once.

    The grid pushes jobs, so the gate's room is not asked for: the number of connections bounds what comes, and a job
    the gate refuses goes back by closing its connection.
    """

    name = TRANSPORT

    def __init__(self, settings: GridSettings, gate: Gate) -> None:
        """Raises: ConfigError: the rig's key or its delegations cannot be used."""
        self._signer = None if settings.identity_key_file is None else read_rig_key(settings.identity_key_file)
        self._delegations = None
        if self._signer is not None and settings.delegations_file is not None:
            self._delegations = read_delegations(
                settings.delegations_file, self._signer, names=settings.names, now=time.time()
            )
        self._settings = settings
        self._gate = gate
        self._host = URL(settings.worker_url).host or ""
        self._ledger = Ledger()
        self._catalogue = Catalogue(settings, gate)
        self._presence = Presence(settings)
        self._renewals = Renewals(settings.connections)
        self._shop: Shop | None = None
        self._connections: list[Connection] = []
        self._ended: dict[str, str] = {}
        self._stopping = False
        self._opening: anyio.CancelScope | None = None

    async def run(
        self, offers: ObjectSendStream[Offer], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Take jobs until `stop_taking`, then return once every job taken has its receipt.

        Calls `task_status.started()` once the first connection is registered, or once it is clear that we keep trying.

        Raises: TransportClosed: not one of the names can be used any more; says what to change.
        """
        started = StartedOnce(task_status)
        async with open_session(connections=0) as http, open_guarded_session(self._host) as sources:
            with anyio.CancelScope() as self._opening:
                await self._catalogue.check(http)
            if not self._stopping:
                await self._serve(http, sources, offers, started)
        if not self._stopping:
            reasons = "; ".join(dict.fromkeys(self._ended.values()))
            raise TransportClosed(f"grid {self._host}: {reasons}")
        started.tell()

    def stop_taking(self) -> None:
        """Take no further job: idle connections close at once, busy ones after their receipt."""
        self._stopping = True
        if self._opening is not None:
            self._opening.cancel()
        for connection in self._connections:
            connection.stop()

    def adopt(self, settings: GridSettings) -> None:
        """Go on with other settings; no connection closes for it.

        Raises: ConfigError: they differ in what connections are made of.
        """
        check_adoptable(self._settings, settings, FIXED)
        self._settings = settings
        if self._shop is not None:
            self._shop.settings = settings

    @property
    def looks(self) -> int:
        """How often the grid's list of workers was looked at."""
        return self._presence.looks

    def state(self) -> NetworkState:
        """How it stands with the grid now."""
        sessions = [connection.session for connection in self._connections if connection.session is not None]
        return NetworkState(
            network=self.name,
            connections=len(self._settings.names),
            connected=len(sessions),
            busy=sum(session.busy for session in sessions),
            reconnects=self._ledger.reconnects,
            withdrawn=self._catalogue.withdrawn,
            unserved=self._catalogue.unserved,
            lost=dict(self._ended),
        )

    async def _serve(
        self,
        http: aiohttp.ClientSession,
        sources: aiohttp.ClientSession,
        offers: ObjectSendStream[Offer],
        started: StartedOnce,
    ) -> None:
        shop = self._shop = Shop(
            settings=self._settings,
            gate=self._gate,
            catalogue=self._catalogue,
            ledger=self._ledger,
            presence=self._presence,
            renewals=self._renewals,
            http=http,
            sources=sources,
            host=self._host,
            offers=offers,
            signer=self._signer,
            delegations=self._delegations,
            stop=self.stop_taking,
        )
        self._connections = [Connection(name, shop, settled_in=started.tell) for name in self._settings.names]
        async with anyio.create_task_group() as background:
            background.start_soon(self._catalogue.watch, http)
            background.start_soon(self._follow_gate)
            background.start_soon(self._pass_on_changes)
            background.start_soon(self._presence.run, http)
            async with anyio.create_task_group() as lives:
                for connection in self._connections:
                    lives.start_soon(self._keep, connection)
            background.cancel_scope.cancel()
        logger.info("Grid {}: left", self._host)

    async def _keep(self, connection: Connection) -> None:
        ended = await connection.run()
        self._renewals.end(connection.name)
        if ended:
            self._ended[connection.name] = ended

    async def _follow_gate(self) -> None:
        while True:
            self._catalogue.look()  # what is gone is withdrawn before the grid's recipes are read again
            await self._gate.models_changed()
            self._catalogue.recheck()

    async def _pass_on_changes(self) -> None:
        changed = self._catalogue.changed
        while True:
            await changed.wait()
            changed = self._catalogue.changed  # before acting: what changes meanwhile is seen next
            logger.info("Grid {}: other models are offered; each connection registers them in its next gap", self._host)
            for connection in self._connections:
                connection.refresh()
