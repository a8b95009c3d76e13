"""A gate that does as it is told, graphs and job frames, and a worker at work for the local grid."""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream
from loguru import logger
from PIL import Image

from trt_engines.model import Model
from trt_worker.delivery import EncodedImage, IntakeEnd, Offer, Receipt
from trt_worker.errors import TransportClosed
from trt_worker.intake.grid.pool import GridTransport
from trt_worker.intake.grid.settings import GridSettings
from trt_worker.job import JobSpec
from trt_worker.local_grid import Faults, LocalGrid
from trt_worker.local_grid import GridSettings as ServerSettings
from trt_worker.submit.submit import submit
from trt_worker.submit.upload import Uploader


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def a_model(
    name: str = "shapes-tiny",
    files: tuple[str, ...] = ("shapes-tiny.safetensors",),
    prediction: str = "epsilon",
    architecture: str = "stable_diffusion_1",
) -> Model:
    return Model(
        name=name,
        folder=Path("/models") / name,
        architecture=architecture,
        prediction=prediction,
        native_width=128,
        native_height=128,
        checkpoint_files=frozenset(files),
        networks=MappingProxyType({}),
    )


@pytest.fixture(scope="session", name="a_model")
def a_model_maker() -> Callable[..., Model]:
    return a_model


_GRAPH: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 7, "steps": 12, "cfg": 4.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0,
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "shapes-tiny.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": ["10", 0], "height": 192, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red circle", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["8", 0]}},
    "10": {"class_type": "PrimitiveInt", "inputs": {"value": 128}},
}  # fmt: skip


@pytest.fixture(scope="session")
def a_graph() -> Callable[..., dict[str, Any]]:
    """A text-to-image graph; `changes` maps "node.input" to a value, None takes the input away."""

    def make(changes: Mapping[str, Any] | None = None, **nodes: Any) -> dict[str, Any]:
        graph = copy.deepcopy(_GRAPH)
        for node_id, node in nodes.items():
            graph[node_id.lstrip("n")] = node
        for path, value in (changes or {}).items():
            node_id, _, name = path.partition(".")
            graph[node_id]["inputs"][name] = value
        return graph

    return make


def a_picture(kind: str = "WEBP", size: tuple[int, int] = (128, 128)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="session", name="a_picture")
def a_picture_maker() -> Callable[..., bytes]:
    return a_picture


@dataclass
class OpenGate:
    """Refuses nothing until told otherwise."""

    models: dict[str, Model] = field(default_factory=lambda: {"shapes-tiny": a_model()})
    refuses: Callable[[JobSpec], str | None] = lambda job: None
    news: anyio.Event = field(default_factory=anyio.Event)
    ends: list[IntakeEnd] = field(default_factory=list)

    def serve(self, *models: Model) -> None:
        """Serve these from now on."""
        self.models = {model.name: model for model in models}
        self.news.set()
        self.news = anyio.Event()

    def models_served(self) -> Mapping[str, Model]:
        return self.models

    async def models_changed(self) -> None:
        await self.news.wait()

    def room(self) -> int:
        return 8

    async def wait_for_room(self) -> None:
        return

    def refusal(self, job: JobSpec) -> str | None:
        return self.refuses(job)

    def ended(self, end: IntakeEnd) -> None:
        self.ends.append(end)


@pytest.fixture
def gate() -> OpenGate:
    return OpenGate()


@dataclass
class Work:
    """A transport on a local grid, and what became of its offers."""

    grid: LocalGrid
    gate: OpenGate
    tasks: TaskGroup
    session: aiohttp.ClientSession
    transports: list[GridTransport] = field(default_factory=list)
    settings: list[GridSettings] = field(default_factory=list)  # of each of them, as it was started
    offers: list[Offer] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    closed: list[TransportClosed] = field(default_factory=list)
    automatic: bool = True  # draw at once; otherwise offers stay open for the test
    changed: anyio.Event = field(default_factory=anyio.Event)

    async def start(self, gate: OpenGate | None = None, **fields: Any) -> GridTransport:
        quick: dict[str, Any] = {
            "url": self.grid.worker_url,
            "http_url": self.grid.url,
            "api_key": self.grid.key,
            "name": "rig",
            "first_retry_wait": 0.01,
            "longest_retry_wait": 0.02,
            "eviction_waits": (0.01, 0.02),
            "look_seconds": 0.02,
            "takeover_wait": 0.1,
            "gap_seconds": 0.02,
        }
        settings = GridSettings(**quick | fields)
        transport = GridTransport(settings, gate or self.gate)
        self.settings.append(settings)
        self.transports.append(transport)
        send, receive = anyio.create_memory_object_stream[Offer](0)
        self.tasks.start_soon(self._work, receive)
        self.tasks.start_soon(self._run, transport, send)
        return transport

    async def _run(self, transport: GridTransport, send: Any) -> None:
        async with send:
            try:
                await transport.run(send)
            except TransportClosed as error:
                self.closed.append(error)
        self._notify()

    async def _work(self, receive: MemoryObjectReceiveStream[Offer]) -> None:
        async with receive, anyio.create_task_group() as jobs:
            async for offer in receive:
                self.offers.append(offer)
                self._notify()
                if self.automatic:
                    jobs.start_soon(self.finish, offer)

    async def finish(self, offer: Offer) -> Receipt:
        receipt = await submit(offer, images_for(offer), Uploader(lambda network: self.session))
        self.receipts.append(receipt)
        self._notify()
        return receipt

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once something holds that the worker's own doings bring about."""
        with anyio.fail_after(10):
            while not condition():
                await self.changed.wait()

    async def offer(self, count: int = 1) -> Offer:
        """The latest of so many offers."""
        await self.until(lambda: len(self.offers) >= count)
        return self.offers[count - 1]

    def stop(self) -> None:
        for transport in self.transports:
            transport.stop_taking()

    def _notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()


def images_for(offer: Offer) -> list[EncodedImage | None]:
    data = a_picture({"jpg": "JPEG"}.get(offer.job.format.value, offer.job.format.value.upper()))
    return [
        EncodedImage(
            index=index,
            seed=seed.value,
            width=offer.job.width,
            height=offer.job.height,
            format=offer.job.format,
            data=data,
            sha256=hashlib.sha256(data).hexdigest(),
        )
        for index, seed in enumerate(offer.job.seeds)
    ]


@pytest.fixture
def at_work(gate: OpenGate) -> Callable[..., Any]:
    """Opens a local grid with one transport; at the end it is drained, and the grid's books must be in order."""

    @asynccontextmanager
    async def open_it(
        *, faults: Faults | None = None, server: Mapping[str, Any] | None = None, automatic: bool = True,
        start: bool = True, recipes: Any = None, **fields: Any,
    ) -> AsyncIterator[Work]:  # fmt: skip
        async with (
            LocalGrid(ServerSettings(**(server or {})), recipes=recipes) as grid,
            aiohttp.ClientSession() as session,
        ):
            grid.faults = faults or Faults()
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tasks:
                    work = Work(grid, gate, tasks, session, automatic=automatic)
                    if start:
                        await work.start(**fields)
                    yield work
                    work.stop()
            assert grid.ledger.offences == []

    return open_it


class Lines(list[str]):
    """What was logged, and a wait for what will be."""

    def __init__(self) -> None:
        super().__init__()
        self._added = anyio.Event()

    def add(self, line: str) -> None:
        self.append(line)
        self._added.set()
        self._added = anyio.Event()

    async def until(self, part: str) -> None:
        """Return once a line holds a text."""
        while not any(part in line for line in self):
            await self._added.wait()


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What the operator was told, warnings and worse."""
    said = Lines()
    sink = logger.add(lambda message: said.add(str(message)), level="WARNING", format="{message}")
    yield said
    logger.remove(sink)
