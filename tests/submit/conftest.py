"""A real store on the loopback address, a delivery that remembers, and makers."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import anyio
import pytest
from aiohttp import web

from trt_worker.delivery import EncodedImage, Receipt, Settlement, UploadSlot
from trt_worker.job import ImageFormat, ImageSeed, JobSpec
from trt_worker.submit.upload import Uploader

SECRET = "X-Amz-Signature=0123456789abcdef"


@dataclass
class Put:
    """One request as it arrived."""

    path: str  # undecoded, with its query
    content_type: str | None
    length: str | None
    body: bytes


@dataclass
class Store:
    """Takes PUTs; `answers` are given in order, then 200. A status of 0 drops the connection, -1 never answers."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    body: bytes = b""
    puts: list[Put] = field(default_factory=list)
    arrived: anyio.Event = field(default_factory=anyio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        self.puts.append(
            Put(
                request.raw_path,
                request.headers.get("Content-Type"),
                request.headers.get("Content-Length"),
                await request.read(),
            )
        )
        self.arrived.set()
        status = self.answers.pop(0) if self.answers else 200
        if status == -1:
            await anyio.sleep_forever()
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        headers = {"Location": f"http://127.0.0.1:{self.port}/elsewhere"} if status == 307 else {}
        return web.Response(status=status or 200, body=self.body, headers=headers)

    def slot(self, name: str = "a", content_type: str | None = "image/webp") -> UploadSlot:
        return UploadSlot(url=f"http://127.0.0.1:{self.port}/{name}?{SECRET}", content_type=content_type)


@dataclass
class Workplace:
    store: Store
    uploader: Uploader


OpenWorkplace = Callable[..., AbstractAsyncContextManager[Workplace]]


@pytest.fixture
def open_workplace() -> OpenWorkplace:
    @asynccontextmanager
    async def open_it(*answers: int, attempt_seconds: float = 20.0, body: bytes = b"") -> AsyncIterator[Workplace]:
        store = Store(answers=list(answers), body=body)
        application = web.Application(client_max_size=64 * 2**20)
        application.router.add_route("*", "/{path:.*}", store.handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            store.port = runner.addresses[0][1]
            async with aiohttp.ClientSession() as session:
                yield Workplace(
                    store, Uploader(lambda network: session, attempt_seconds=attempt_seconds, first_wait=0.001)
                )
        finally:
            await runner.cleanup()

    return open_it


@pytest.fixture
def an_image() -> Callable[..., EncodedImage]:
    def make(index: int = 0, data: bytes = b"pixels") -> EncodedImage:
        digest = hashlib.sha256(data).hexdigest()
        return EncodedImage(
            index=index, seed=index, width=64, height=64, format=ImageFormat.WEBP, data=data, sha256=digest
        )

    return make


@pytest.fixture
def a_job() -> Callable[..., JobSpec]:
    def make(images: int = 1, due: float = 1e12) -> JobSpec:
        return JobSpec(
            id="job-1",
            model="m",
            prompt="",
            width=64,
            height=64,
            steps=1,
            seeds=tuple(ImageSeed(value=value) for value in range(images)),
            received=0.0,
            due=due,
        )

    return make


class RememberingDelivery:
    """A transport's end that keeps what it is handed."""

    def __init__(self, slots: Sequence[UploadSlot | None], trouble: Exception | None = None) -> None:
        self.slots = slots
        self.withdrawn = anyio.Event()
        self.delivered: list[list[EncodedImage | None]] = []
        self.failed: list[str] = []
        self.given_back: list[str] = []
        self._trouble = trouble

    async def progress(self, fraction: float) -> None:
        pass

    async def deliver(self, images: Sequence[EncodedImage | None]) -> Receipt:
        self.delivered.append(list(images))
        if self._trouble is not None:
            raise self._trouble
        return Receipt(settlement=Settlement.PAID, reward=2.0, unit="den")

    async def fail(self, public: str) -> Receipt:
        self.failed.append(public)
        return Receipt(settlement=Settlement.FAILED)

    async def give_back(self, reason: str) -> Receipt:
        self.given_back.append(reason)
        return Receipt(settlement=Settlement.RETURNED)


@pytest.fixture
def a_delivery() -> Callable[..., RememberingDelivery]:
    return RememberingDelivery
