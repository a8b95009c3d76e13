"""A worker's end of the socket, driven frame by frame."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import anyio
import orjson
import pytest

from trt_worker.local_grid import Account, Faults, GridSettings, LocalGrid

IMAGE = b"RIFF....WEBPVP8 not really a picture"


@dataclass
class Worker:
    """One WebSocket connection that does what a test tells it."""

    session: aiohttp.ClientSession
    socket: aiohttp.ClientWebSocketResponse

    async def send(self, frame: Mapping[str, Any] | str) -> None:
        await self.socket.send_str(frame if isinstance(frame, str) else orjson.dumps(frame).decode())

    async def next(self) -> Any:
        """The next message as it is; 10 s at most."""
        with anyio.fail_after(10):
            return await self.socket.receive()

    async def frame(self, kind: str | None = None) -> dict[str, Any]:
        """The next frame, which must be of the kind; pings are passed over unless asked for."""
        while True:
            message = await self.next()
            assert message.type is aiohttp.WSMsgType.TEXT, message
            frame: dict[str, Any] = orjson.loads(message.data)
            if frame["type"] == "ping" and kind != "ping":
                continue
            assert kind is None or frame["type"] == kind, frame
            return frame

    async def closed(self) -> int | None:
        """The close code; 1006 if the socket just died."""
        while True:
            message = await self.next()
            if message.type is not aiohttp.WSMsgType.TEXT:
                return self.socket.close_code

    async def put(self, slot: Mapping[str, Any], data: bytes = IMAGE, content_type: str | None = None) -> int:
        headers = {"Content-Type": content_type or slot["content_type"]}
        async with self.session.put(slot["put_url"], data=data, headers=headers) as answer:
            return answer.status

    async def upload(self, job: Mapping[str, Any], data: bytes = IMAGE) -> list[dict[str, Any]]:
        """Put every image of a job and return the results that a `done` frame needs."""
        for slot in job["upload"]:
            assert await self.put(slot, data) == 200
        digest = hashlib.sha256(data).hexdigest()
        seeds = job["payload"].get("seeds", [None])
        return [{"index": index, "seed": seeds[index], "sha256": digest} for index in range(len(job["upload"]))]

    async def done(self, job: Mapping[str, Any], results: Sequence[Mapping[str, Any]] | None = None) -> None:
        results = await self.upload(job) if results is None else results
        await self.send({"type": "done", "id": job["id"], "results": list(results)})


@dataclass
class Workplace:
    """A running grid and a way to connect to it."""

    grid: LocalGrid
    session: aiohttp.ClientSession
    workers: list[Worker] = field(default_factory=list)  # a socket nobody holds is closed by the collector

    async def dial(self) -> Worker:
        worker = Worker(self.session, await self.session.ws_connect(self.grid.worker_url))
        self.workers.append(worker)
        return worker

    async def worker(self, name: str = "rig", models: Sequence[str] = ("shapes-tiny",), **fields: Any) -> Worker:
        """A registered connection, past `ready`."""
        worker = await self.register(name, models, **fields)
        await worker.frame("ready")
        return worker

    async def register(self, name: str = "rig", models: Sequence[str] = ("shapes-tiny",), **fields: Any) -> Worker:
        worker = await self.dial()
        frame = {"apikey": self.grid.key, "name": name, "models": list(models), "job_types": ["image"], **fields}
        await worker.send({field: value for field, value in frame.items() if value is not None})
        return worker


class OpenGrid(Protocol):
    def __call__(
        self, *accounts: Account, faults: Faults = ..., **settings: Any
    ) -> AbstractAsyncContextManager[Workplace]: ...


@pytest.fixture
def open_grid() -> OpenGrid:
    @asynccontextmanager
    async def open_it(*accounts: Account, faults: Faults | None = None, **settings: Any) -> AsyncIterator[Workplace]:
        if accounts:
            settings["accounts"] = accounts
        async with LocalGrid(GridSettings(**settings)) as grid, aiohttp.ClientSession() as session:
            grid.faults = faults or Faults()
            yield Workplace(grid, session)

    return open_it


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
