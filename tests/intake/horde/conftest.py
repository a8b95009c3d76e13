"""A scripted Horde on the loopback address, a gate that does as it is told, recordings and makers."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web
from anyio.streams.memory import MemoryObjectReceiveStream
from loguru import logger

from trt_engines.model import Model
from trt_worker.concurrency import Clock
from trt_worker.delivery import EncodedImage, IntakeEnd, Offer
from trt_worker.intake.horde.settings import HordeSettings
from trt_worker.intake.horde.transport import HordeTransport
from trt_worker.job import ImageFormat, JobSpec

WIRE = Path(os.environ.get("WIRE_DIR", Path(__file__).parents[2] / "data" / "wire"))

KEY = "a-secret-key"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def a_model(name: str = "stable_diffusion", native: int = 512, architecture: str = "stable_diffusion_1") -> Model:
    return Model(
        name=name,
        folder=Path("/models") / name,
        architecture=architecture,
        prediction="epsilon",
        native_width=native,
        native_height=native,
        checkpoint_files=frozenset(),
        networks=MappingProxyType({}),
    )


@pytest.fixture(scope="session", name="a_model")
def a_model_maker() -> Callable[..., Model]:
    return a_model


def a_payload(**fields: Any) -> dict[str, Any]:
    return {
        "prompt": "a lighthouse",
        "ddim_steps": 20,
        "n_iter": 1,
        "seed": "457820011",
        "sampler_name": "k_euler",
        "cfg_scale": 7.5,
        "height": 512,
        "width": 512,
        "karras": True,
        "tiling": False,
        "hires_fix": False,
        "transparent": False,
        "image_is_control": False,
        "return_control_map": False,
    } | fields


@pytest.fixture
def a_pop() -> Callable[..., dict[str, Any]]:
    """A pop's answer with a job, as the server words it; keyword arguments of the payload go under `payload`."""

    def make(*, ids: tuple[str, ...] = ("job-0",), payload: Mapping[str, Any] | None = None, **fields: Any) -> Any:
        return {
            "payload": a_payload(**(payload or {})),
            "id": ids[0],
            "ids": list(ids),
            "messages": [],
            "ttl": 150,
            "skipped": {},
            "model": "stable_diffusion",
            "source_image": None,
            "source_processing": "img2img",
            "source_mask": None,
            "extra_source_images": None,
            "r2_upload": f"https://store.example/{ids[0]}.webp?X-Amz-Signature=1",
            "r2_uploads": [f"https://store.example/{one}.webp?X-Amz-Signature=1" for one in ids],
        } | fields

    return make


NO_JOB: dict[str, Any] = {
    "payload": {"ddim_steps": 30, "n_iter": 1, "sampler_name": "k_euler_a", "cfg_scale": 7.5, "width": 512},
    "id": None,
    "ids": [],
    "messages": [],
    "ttl": None,
    "skipped": {"nsfw": 0, "models": 0},
    "model": None,
    "source_image": None,
    "source_processing": "img2img",
    "r2_upload": None,
    "r2_uploads": None,
}


@pytest.fixture
def no_job() -> dict[str, Any]:
    return dict(NO_JOB)


@dataclass(frozen=True)
class Call:
    """One request as it arrived."""

    endpoint: str  # "pop", "submit", ...
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass
class ScriptedHorde:
    """Gives the answers of its script in order, then the usual ones: no job, a reward, a user.

    An answer is (status, body) or (status, body, headers); bytes are sent as they are. A status of 0 drops the
    connection instead, after the call was noted. While `held` has an event for an endpoint, answers wait for it.
    """

    port: int = 0
    script: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    held: dict[str, anyio.Event] = field(default_factory=dict)
    most_at_once: int = 0
    _at_once: int = 0
    _changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def answer(self, endpoint: str, *answers: tuple[Any, ...]) -> None:
        self.script.setdefault(endpoint, []).extend(answers)

    def of(self, endpoint: str) -> list[Call]:
        return [call for call in self.calls if call.endpoint == endpoint]

    async def until(self, endpoint: str, count: int = 1) -> list[Call]:
        """Return once so many calls of an endpoint have come."""
        with anyio.fail_after(10):
            while len(self.of(endpoint)) < count:
                await self._changed.wait()
        return self.of(endpoint)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/api/v2/")
        endpoint = {"generate/pop": "pop", "generate/submit": "submit", "find_user": "find_user"}.get(
            path, "source" if path.startswith("/source") else f"{request.method} workers"
        )
        raw = await request.read()
        self.calls.append(
            Call(endpoint, request.method, request.raw_path, dict(request.headers), json.loads(raw) if raw else None)
        )
        self._changed.set()
        self._changed = anyio.Event()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if endpoint in self.held:
                await self.held[endpoint].wait()
            return await self._answer(request, endpoint)
        finally:
            self._at_once -= 1

    async def _answer(self, request: web.Request, endpoint: str) -> web.StreamResponse:
        waiting = self.script.get(endpoint)
        status, body, *more = waiting.pop(0) if waiting else self._usual(endpoint)
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        headers = {"Retry-After": "60"} | (more[0] if more else {})  # on every answer, as these servers do
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(status=status, body=data, content_type="application/json", headers=headers)

    def _usual(self, endpoint: str) -> tuple[int, Any]:
        return {
            "pop": (200, NO_JOB),
            "submit": (200, {"reward": 6.22}),
            "find_user": (200, {"username": "owner#3", "id": 3, "kudos": 6957.0, "trusted": True}),
        }.get(endpoint, (404, {"message": "not found", "rc": "WorkerNotFound"}))


@pytest.fixture
async def horde() -> AsyncIterator[ScriptedHorde]:
    scripted = ScriptedHorde()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", scripted.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    scripted.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    yield scripted
    await runner.cleanup()


@dataclass
class OpenGate:
    """Has room until told otherwise."""

    images: int = 4
    models: dict[str, Model] = field(default_factory=lambda: {"stable_diffusion": a_model()})
    refuses: Callable[[JobSpec], str | None] = lambda job: None
    ends: list[IntakeEnd] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)  # how often for "models" and "room"
    _changed: anyio.Event = field(default_factory=anyio.Event)
    _asked: anyio.Event = field(default_factory=anyio.Event)

    def models_served(self) -> Mapping[str, Model]:
        self._note("models")
        return self.models

    async def until_asked(self, what: str, count: int = 1) -> None:
        """Return once it has been asked so often."""
        with anyio.fail_after(10):
            while self.asked[what] < count:
                await self._asked.wait()

    def _note(self, what: str) -> None:
        self.asked[what] += 1
        self._asked.set()
        self._asked = anyio.Event()

    async def models_changed(self) -> None:
        await anyio.sleep_forever()

    def room(self) -> int:
        return self.images

    async def wait_for_room(self) -> None:
        self._note("room")
        while self.images <= 0:
            await self._changed.wait()

    def make_room(self, images: int) -> None:
        self.images = images
        self._changed.set()
        self._changed = anyio.Event()

    def refusal(self, job: JobSpec) -> str | None:
        return self.refuses(job)

    def ended(self, end: IntakeEnd) -> None:
        self.ends.append(end)


class StandingClock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._sleepers: dict[anyio.Event, float] = {}
        self._fell_asleep = anyio.Event()

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        if seconds > 0:
            woken = anyio.Event()
            self._sleepers[woken] = self.time + seconds
            self._fell_asleep.set()
            await woken.wait()

    async def sleeper(self) -> float:
        """Seconds that the first one to wake has left, once somebody sleeps."""
        with anyio.fail_after(10):
            await self._fell_asleep.wait()
        return min(self._sleepers.values()) - self.time

    def advance(self, seconds: float) -> int:
        """Let time pass. Returns: how many woke."""
        self.time += seconds
        awake = [woken for woken, until in self._sleepers.items() if until <= self.time]
        for woken in awake:
            del self._sleepers[woken]
            woken.set()
        return len(awake)


@pytest.fixture
def standing_clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def gate() -> OpenGate:
    return OpenGate()


@pytest.fixture
def a_settings() -> Callable[..., HordeSettings]:
    """Settings with waits that a test does not feel."""

    def make(**fields: Any) -> HordeSettings:
        quick: dict[str, Any] = {
            "url": "https://horde.example/api",
            "api_key": KEY,
            "worker_name": "worker-01",
            "first_idle_wait": 0.01,
            "longest_idle_wait": 0.02,
            "maintenance_wait": 0.02,
            "fault_hold": 0.02,
            "first_retry_wait": 0.01,
            "call_timeout": 30.0,
        }
        return HordeSettings(**quick | fields)

    return make


@dataclass(frozen=True)
class Running:
    """A transport at work."""

    transport: HordeTransport
    offers: MemoryObjectReceiveStream[Offer]

    async def next_offer(self) -> Offer:
        with anyio.fail_after(10):
            return await self.offers.receive()


Run = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def running(horde: ScriptedHorde, a_settings: Callable[..., HordeSettings], gate: OpenGate) -> Run:
    """Runs a transport; at the end it is stopped, and must return with every job settled."""

    @asynccontextmanager
    async def run(*, clock: StandingClock | None = None, **fields: Any) -> AsyncIterator[Running]:
        paced = Clock(now=clock.now, sleep=clock.sleep) if clock else Clock()
        transport = HordeTransport(a_settings(**{"url": horde.url} | fields), gate, clock=paced)
        send, receive = anyio.create_memory_object_stream[Offer](8)
        with anyio.fail_after(20):
            async with send, receive, anyio.create_task_group() as tasks:
                await tasks.start(transport.run, send)
                yield Running(transport, receive)
                transport.stop_taking()

    return run


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the operator was told, warnings and worse."""
    said: list[str] = []
    sink = logger.add(lambda message: said.append(str(message)), level="WARNING", format="{message}")
    yield said
    logger.remove(sink)


@pytest.fixture
def an_image() -> Callable[..., EncodedImage]:
    def make(index: int = 0, seed: int = 457820011, data: bytes = b"RIFFwebp") -> EncodedImage:
        return EncodedImage(
            index=index, seed=seed, width=512, height=512, format=ImageFormat.WEBP, data=data, sha256="0" * 64
        )

    return make


@pytest.fixture
def recorded() -> Callable[[str, str], dict[str, Any]]:
    """One recording by server folder and number; skips where the directory in use does not have it."""

    def read(server: str, number: str) -> dict[str, Any]:
        found = sorted((WIRE / server).glob(f"{number}_*.json"))
        if not found:
            pytest.skip(f"no recording {server}/{number} in this directory")
        recording: dict[str, Any] = json.loads(found[0].read_text())
        return recording

    return read
