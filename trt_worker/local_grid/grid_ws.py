"""The grid's worker WebSocket: registration, one job at a time, pings, progress, results."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from aiohttp import WSMsgType, web

from trt_worker.local_grid.coordinator import Coordinator, Job
from trt_worker.local_grid.faults import FaultInjector
from trt_worker.local_grid.identity import IdentityRefused, IdentityRegister
from trt_worker.local_grid.json_text import dump, load
from trt_worker.local_grid.presence import Presence, Present
from trt_worker.local_grid.settings import Account, GridSettings

PATH = "/v1/workers/ws"
JOB_TYPES = ("text", "image", "video", "audio", "3d")
RETIRED = "flux.1-krea-dev"  # names that start so are refused

_LISTENS_SECONDS = 0.5
"""How long the coordinator reads an idle connection's socket after a ping; otherwise it reads during jobs alone."""

_READY_TO_SEND = frozenset({"progress", "done", "error"})
_PING = '{"type":"ping"}'
_MALFORMED = '{"type":"job","id":'
_WRONG = ('{"type":"gossip","heard":1}', "[]", '{"id":"no type"}', '"job"', '{"type":"cancel","id":"nobody"}')


class _Refused(Exception):
    """A registration that is answered with an error frame and a close code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True, kw_only=True, eq=False)
class Connection:
    """One registered worker connection."""

    name: str
    worker_id: str
    advertised: tuple[str, ...]  # model names as registered
    models: frozenset[str]  # the same, if it takes images; text-only workers read another queue
    job_types: tuple[str, ...]
    bridge_agent: str
    signer: str  # delegated rig key, or empty
    depth: int  # jobs it may have, the running one included
    socket: web.WebSocketResponse
    request: web.Request
    running: Job | None = None
    held: deque[Job] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    close_with: int | None = None  # set: the connection is being closed with this code
    last_frame: float = field(default_factory=time.monotonic)
    listens_until: float = 0.0  # time.monotonic() until which an idle connection's socket is read

    @property
    def present(self) -> Present:
        """Its entry in the list of who is online."""
        return Present(worker_id=self.worker_id, name=self.name, models=self.advertised, job_types=self.job_types)

    @property
    def has_room(self) -> bool:
        """Whether another job may be given."""
        return self.close_with is None and len(self.held) + (self.running is not None) < self.depth

    def give(self, job: Job) -> None:
        """Take a job: run it, or hold it while another runs."""
        self.held.append(job)
        if self.running is None:
            self.wake.set()

    def close(self, code: int) -> None:
        """Have the connection closed by its own task."""
        self.close_with = code
        self.wake.set()

    def abort(self) -> None:
        """Kill the socket without a closing handshake."""
        self.close_with = 1006
        if self.request.transport is not None:
            self.request.transport.abort()


class WorkerSockets:
    """All worker connections of the grid."""

    def __init__(self, settings: GridSettings, coordinator: Coordinator, faults: FaultInjector) -> None:
        self._settings = settings
        self._coordinator = coordinator
        self._faults = faults
        self._keys: Mapping[str, Account] = {account.key: account for account in settings.accounts}
        self._owners: dict[str, tuple[str, str]] = {}  # worker name -> account name, worker id
        self._identities = IdentityRegister(required=settings.require_identity)
        self.connections: dict[str, Connection] = {}  # by name
        self._up: set[Connection] = set()  # these, and those that a newer one of their name has replaced
        self.presence = Presence(settings.presence_seconds)
        self.registrations: list[Mapping[str, Any]] = []  # register frames accepted, without their keys
        self.pings = 0
        self.pongs = 0
        self.refreshes = 0  # of presence
        self._changed = anyio.Event()

    def routes(self) -> list[web.RouteDef]:
        """The socket's route."""
        return [web.get(PATH, self._serve)]

    async def connected(self, count: int = 1) -> None:
        """Return once at least `count` connections are registered; 0 waits until none is left."""
        while len(self.connections) < count or (count == 0 and self.connections):
            await self._changed.wait()

    async def left(self, count: int) -> None:
        """Return once no more than `count` connections are registered."""
        while len(self.connections) > count:
            await self._changed.wait()

    async def changed(self) -> None:
        """Return once a connection came or left, or answered a ping."""
        await self._changed.wait()

    async def registered(self, count: int) -> None:
        """Return once at least `count` registrations were accepted, since the start."""
        while len(self.registrations) < count:
            await self._changed.wait()

    async def ponged(self, count: int) -> None:
        """Return once at least `count` pings were answered."""
        while self.pongs < count:
            await self._changed.wait()

    async def presence_refreshed(self, count: int) -> None:
        """Return once presence was refreshed at least `count` times."""
        while self.refreshes < count:
            await self._changed.wait()

    async def close(self, code: int = 1001) -> None:
        """Close every connection, as a server that goes away does."""
        for connection in self._up:
            connection.close(code)
        await self.connected(0)

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(
            heartbeat=20.0, compress=self._settings.compress, max_msg_size=64 * 2**20, timeout=2.0
        )
        await socket.prepare(request)
        try:
            with anyio.fail_after(self._settings.register_seconds):
                first = await socket.receive()
            connection = self._register(first, socket, request)
        except TimeoutError:
            await socket.close(code=1011)
            return socket
        except _Refused as refusal:
            await socket.send_str(dump({"type": "error", "message": str(refusal)}))
            await socket.close(code=refusal.code)
            return socket
        if connection is None:
            return socket
        try:
            await socket.send_str(dump({"type": "ready", "worker_id": connection.worker_id}))
            self._coordinator.join(connection)
            async with anyio.create_task_group() as beside:
                beside.start_soon(self._keep_present, connection)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._push, connection)
                    await self._read(connection)
                    if not self._goes_unnoticed(connection):
                        tasks.cancel_scope.cancel()
                beside.cancel_scope.cancel()
        except* ConnectionError:  # the socket died under a send
            self._coordinator.ledger.notes.append(f"{connection.name}: connection lost")
        finally:
            self._leave(connection)
        return socket

    def _register(self, first: Any, socket: web.WebSocketResponse, request: web.Request) -> Connection | None:
        """Check the register frame in the coordinator's own order; None: the socket is already gone."""
        if first.type is not WSMsgType.TEXT:
            return None
        if self._faults.strike("drop_before_ready"):
            if request.transport is not None:
                request.transport.abort()
            return None
        try:
            frame = load(first.data)
        except ValueError as error:
            raise _Refused(1011, "Malformed registration") from error
        if not isinstance(frame, dict):
            raise _Refused(1011, "Malformed registration")
        models = frame.get("models") or []
        if retired := [name for name in models if str(name).lower().startswith(RETIRED)]:
            raise _Refused(4003, f"Retired model identity: {', '.join(retired)}")
        offered = frame.get("job_types") or [frame.get("worker_type", "text")]
        job_types = tuple(kind for kind in offered if kind in JOB_TYPES) or ("text",)
        if "audio" in job_types:
            raise _Refused(4003, "audio requires an approved managed profile")
        key, name = frame.get("apikey", ""), frame.get("name", "")
        if not key or not name:
            raise _Refused(4001, "Missing apikey or name")
        account = self._keys.get(key)
        if account is None:
            raise _Refused(4001, "Invalid API key")
        if not account.may_connect:
            raise _Refused(4003, "API key lacks worker.connect scope")
        if account.bound_to is not None and account.bound_to != name:
            raise _Refused(4003, "worker credential targets another rig")
        if fault := self._faults.strike("refuse_register"):
            raise _Refused(fault.code or 4003, "Worker recently evicted for failed generations; retry shortly.")
        bridge_agent = frame.get("bridge_agent", "grid-ws")
        try:
            signer = self._identities.verify(
                frame.get("worker_identity"),
                payout_wallet=account.payout_wallet,
                advertised={
                    "worker_name": name,
                    "models": models,
                    "job_types": list(job_types),
                    "bridge_agent": bridge_agent,
                },
            )
        except IdentityRefused as refusal:
            raise _Refused(4003, str(refusal)) from refusal
        owner, worker_id = self._owners.setdefault(name, (account.name, self._coordinator.new_id()))
        if owner != account.name:
            raise _Refused(4003, "worker name already registered to another account")
        connection = Connection(
            name=name,
            worker_id=worker_id,
            advertised=tuple(models),
            models=frozenset(models if set(job_types) - {"text"} else ()),
            job_types=job_types,
            bridge_agent=bridge_agent,
            signer=signer,
            depth=1 + self._settings.prefetch,
            socket=socket,
            request=request,
        )
        previous = self.connections.get(name)
        self.connections[name] = connection
        self._up.add(connection)
        self.presence.note(connection.present)
        if previous is not None and not (self._settings.loses_held and previous.socket.closed):
            previous.close(1012)
        self.registrations.append({field: value for field, value in frame.items() if field != "apikey"})
        self._notify()
        return connection

    def _leave(self, connection: Connection) -> None:
        running, held = connection.running, tuple(connection.held)
        connection.running = None
        connection.held.clear()
        connection.close_with = connection.close_with or 1006
        self._up.discard(connection)
        if self.connections.get(connection.name) is connection:
            del self.connections[connection.name]
            self.presence.delete(connection.name)
        # One job waits in a queue, which is emptied; the next is in the hands of whoever fills that queue.
        kept = 1 if self._settings.loses_held else len(held)
        self._coordinator.leave(connection, running, held[:kept])
        for job in held[kept:]:
            self._coordinator.lose(job)
        self._notify()

    def _goes_unnoticed(self, connection: Connection) -> bool:
        """Whether nobody sees yet that a worker has closed its connection: until something is sent on it."""
        idle = connection.running is None and connection.close_with is None
        return self._settings.loses_held and idle and time.monotonic() > connection.listens_until

    async def _keep_present(self, connection: Connection) -> None:
        while True:
            await anyio.sleep(self._settings.presence_refresh_seconds)
            if self.connections.get(connection.name) is connection:
                self.presence.note(connection.present)
                self.refreshes += 1
                self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _push(self, connection: Connection) -> None:
        """Send a job to an idle connection, ping it while it has none, close it when told to."""
        while True:
            if connection.close_with is not None:
                await connection.socket.close(code=connection.close_with)
                return
            await self._next_job(connection)
            with anyio.move_on_after(min(self._settings.ping_seconds, self._settings.silence_seconds)):
                await connection.wake.wait()
            if connection.wake.is_set():
                connection.wake.clear()
            elif connection.running is None:
                if fault := self._faults.strike("close_idle"):
                    connection.close(fault.code or 1012)
                    continue
                self.pings += 1
                connection.listens_until = time.monotonic() + _LISTENS_SECONDS
                await connection.socket.send_str(_PING)
            elif time.monotonic() - connection.last_frame > self._settings.silence_seconds:
                connection.abort()
                return

    async def _next_job(self, connection: Connection) -> None:
        """Start the oldest job the connection holds, if it runs none."""
        if connection.running is not None or not connection.held:
            return
        job = connection.running = connection.held.popleft()
        connection.last_frame = time.monotonic()
        self._coordinator.fill(connection)  # the next ones are fetched while this one is handed out
        if self._settings.dispatch_gap_seconds:
            await anyio.sleep(self._settings.dispatch_gap_seconds)
        if self._faults.strike("malformed_frame"):
            await connection.socket.send_str(_MALFORMED)
        if self._faults.strike("wrong_frame"):
            for frame in _WRONG:
                await connection.socket.send_str(frame)
            await connection.socket.send_bytes(b"\x00\x01")
        await connection.socket.send_str(self._coordinator.frame(job, connection.name))
        if fault := self._faults.strike("drop_mid_job"):
            self._break_later(connection, job, fault.seconds, connection.abort)
        if fault := self._faults.strike("close_mid_job"):
            self._break_later(connection, job, fault.seconds, partial(connection.close, fault.code or 1012))

    @staticmethod
    def _break_later(connection: Connection, job: Job, seconds: float, break_it: Callable[[], None]) -> None:
        """End the connection after a while, if it still runs the job then."""

        def strike() -> None:
            if connection.running is job:
                break_it()

        asyncio.get_running_loop().call_later(seconds, strike)

    async def _read(self, connection: Connection) -> None:
        async for message in connection.socket:
            connection.last_frame = time.monotonic()
            connection.listens_until = 0.0
            if message.type is not WSMsgType.TEXT:
                continue
            try:
                frame = load(message.data)
            except ValueError:
                self._offence(connection, "sent a frame that is no JSON")
                connection.close(1011)
                return await self._drain(connection)
            kind = frame.get("type") if isinstance(frame, dict) else None
            if kind == "pong":
                self.pongs += 1
                self._notify()
            elif kind in _READY_TO_SEND:
                await self._about_job(connection, kind, frame)
        return None

    async def _drain(self, connection: Connection) -> None:
        """Read until the closing handshake is over."""
        async for _ in connection.socket:
            pass

    async def _about_job(self, connection: Connection, kind: str, frame: Mapping[str, Any]) -> None:
        """A frame about a job. The coordinator does not look at its id; the books do."""
        job = connection.running
        if job is None or not job.sent:
            self._offence(connection, f"sent {kind!r} about {frame.get('id')!r} while it had no job")
            return
        if frame.get("id") != job.id:
            self._offence(connection, f"sent {kind!r} about {frame.get('id')!r} while its job was {job.id!r}")
        if kind == "progress":
            percent = frame.get("pct")
            if type(percent) is not int or not 0 <= percent <= 100:
                self._offence(connection, f"sent a progress of {percent!r}")
            else:
                job.handle.progress.append(percent)
            return
        connection.last_frame = time.monotonic()
        if kind == "error":
            connection.running = None
            self._coordinator.fail(job, str(frame.get("message", "")), worker=connection.name)
        elif not await self._finish(connection, job, frame):
            return
        self._coordinator.fill(connection)
        await self._next_job(connection)

    async def _finish(self, connection: Connection, job: Job, frame: Mapping[str, Any]) -> bool:
        """Settle a result and acknowledge it; False: the connection is dead."""
        coordinator, ledger = self._coordinator, self._coordinator.ledger
        ledger.done(job.entry)
        if self._faults.strike("drop_after_done"):
            connection.abort()
            return False
        connection.running = None
        if self._faults.strike("no_ack"):
            coordinator.give_up(job, worker=connection.name)
            return True
        signature = frame.get("worker_sig")
        amount = coordinator.settle(job, frame.get("results"), worker=connection.name, signature=signature)
        if amount is None:
            return True
        if self._faults.strike("drop_ack"):
            connection.abort()
            return False
        if fault := self._faults.strike("late_ack"):
            await anyio.sleep(fault.seconds)
        ack = dump({"type": "ack", "id": job.id, "den": amount})
        ledger.ack(job.entry)
        await connection.socket.send_str(ack)
        if self._faults.strike("duplicate_ack"):
            await connection.socket.send_str(ack)
        return True

    def _offence(self, connection: Connection, what: str) -> None:
        self._coordinator.ledger.offences.append(f"{connection.name}: {what}")
