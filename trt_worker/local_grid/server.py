"""The local grid: one server on the loopback address that speaks both networks' protocols, and its customers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable
from contextlib import AsyncExitStack
from io import BytesIO
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from PIL import Image

from trt_worker.local_grid.coordinator import Coordinator
from trt_worker.local_grid.counter import Counter
from trt_worker.local_grid.faults import FaultInjector, Faults
from trt_worker.local_grid.grid_http import GridPages
from trt_worker.local_grid.grid_ws import PATH, WorkerSockets
from trt_worker.local_grid.horde_http import ROOT, HordeApi
from trt_worker.local_grid.horde_queue import HordeQueue
from trt_worker.local_grid.horde_results import HordeResults
from trt_worker.local_grid.horde_views import HordeViews
from trt_worker.local_grid.ledger import Ledger
from trt_worker.local_grid.payload import CONTENT_TYPES, DEFAULT_SIDE, build_payload, matched_size
from trt_worker.local_grid.recipe import Recipe, choose_recipe, shipped_recipes
from trt_worker.local_grid.requests import GridHandle, HordeHandle, HordeRequest, ImageRequest
from trt_worker.local_grid.settings import LOCAL, GridSettings
from trt_worker.local_grid.storage import Storage

HOST = "127.0.0.1"
_LARGEST_BODY = 64 * 2**20  # bytes


class LocalGrid:
    """Both servers, the storage behind them and the books over everything; an async context manager.

    It runs in the caller's event loop, so that a test can hold both ends.
    """

    def __init__(self, settings: GridSettings | None = None, *, recipes: Iterable[Recipe] | None = None) -> None:
        self.settings = settings or GridSettings()
        self.recipes = list(shipped_recipes() if recipes is None else recipes)
        self.injector = FaultInjector(self.settings.seed)
        self.ledger = Ledger()
        self.storage = Storage(self.injector)
        self.coordinator = Coordinator(self.settings, self.storage, self.injector, self.ledger)
        self.sockets = WorkerSockets(self.settings, self.coordinator, self.injector)
        self.horde = HordeQueue(self.settings, self.storage, self.injector, self.ledger)
        self.horde_results = HordeResults(self.horde, self.storage, self.ledger)
        self.port = 0  # known once it listens
        self._stack = AsyncExitStack()
        self._runner: web.AppRunner
        self._site: web.TCPSite

    async def __aenter__(self) -> Self:
        self.port = self.settings.port
        await self._listen()
        self._stack.push_async_callback(self._close)
        sweeping = asyncio.create_task(self._sweep(), name="local-grid-sweep")
        self._stack.push_async_callback(_stop, sweeping)
        return self

    async def restart(self, seconds: float = 0.0, *, tidy: bool = True) -> None:
        """Go away as a coordinator that is restarted does, and be back under the same address after a while.

        Connections are closed with 1012, and what they had goes back to the queue, which outlives the restart.

        Args:
            seconds: until it is back.
            tidy: whether it deletes the presence of its connections; otherwise that ends by itself.
        """
        present = [] if tidy else self.sockets.presence.online()
        await self._close(1012)
        for entry in present:
            self.sockets.presence.note(entry)
        await asyncio.sleep(seconds)
        await self._listen()

    async def _listen(self) -> None:
        application = web.Application(client_max_size=_LARGEST_BODY)
        pages = GridPages(self.sockets, self.ledger, self.recipes, self.settings.accounts, self.injector)
        horde = HordeApi(self.horde, self.horde_results, HordeViews(self.horde, self.storage), self.injector)
        for part in (self.sockets, self.storage, pages, horde, Counter(self.submit_grid)):
            application.add_routes(part.routes())
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0, handle_signals=False)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, HOST, self.port)
        await self._site.start()
        self.port = self._runner.addresses[0][1]
        self.storage.base = self.url

    async def _close(self, code: int = 1001) -> None:
        """Stop listening, then close every worker's connection: none comes back to a server that goes away."""
        await self._site.stop()
        await self.sockets.close(code)
        await self._runner.cleanup()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.settings.horde.sweep_seconds)
            self.horde_results.sweep()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """Where HTTP goes."""
        return f"http://{HOST}:{self.port}"

    @property
    def worker_url(self) -> str:
        """Where workers connect."""
        return f"ws://{HOST}:{self.port}{PATH}"

    @property
    def horde_url(self) -> str:
        """Where the Horde's API is."""
        return self.url + ROOT

    @property
    def key(self) -> str:
        """An API key that may do everything a worker needs."""
        return self.settings.accounts[0].key if self.settings.accounts else LOCAL.key

    @property
    def faults(self) -> Faults:
        """What goes wrong at the moment; assign another value to change it."""
        return self.injector.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.injector.faults = faults

    async def connected(self, count: int = 1) -> None:
        """Return once at least `count` worker connections are registered."""
        await self.sockets.connected(count)

    def violations(self) -> list[str]:
        """What must not have happened and did; empty is right."""
        return self.ledger.violations(alive={*self.coordinator.alive, *self.horde.alive})

    async def submit_grid(self, request: ImageRequest) -> GridHandle:
        """Ask the grid for images, as a customer of its API does.

        Raises: ValueError, LookupError: the request is one that the API answers with 422.
        """
        recipe = choose_recipe(
            self.recipes, request.model, name=request.recipe, with_image=request.source_image is not None
        )
        if not 1 <= request.n <= 4:
            raise ValueError(f"n is {request.n}; the grid takes 1 to 4 images a request")
        if request.ext not in CONTENT_TYPES:
            raise ValueError(f"ext is {request.ext!r}; the grid knows {', '.join(CONTENT_TYPES)}")
        if recipe is None and (request.source_image is not None or request.loras):
            raise ValueError(f"model {request.model!r} has no recipe, so it takes no source image and no LoRA")
        source_url = None
        if request.source_image is not None:
            key = f"sources/{self.coordinator.new_id()}.{request.source_type.partition('/')[2]}"
            self.storage.add(key, request.source_image, request.source_type)
            source_url = self.storage.address(key, seconds=self.settings.source_seconds)
        payload = build_payload(
            request,
            recipe,
            seed=self.coordinator.draw_seed() if request.seed is None else request.seed,
            size=_size(request),
            source_url=source_url,
        )
        return self.coordinator.submit(model=request.model, payload=payload, probe=request.probe)

    async def submit_horde(self, request: HordeRequest) -> HordeHandle:
        """Ask the Horde for images, as a requester does.

        Raises: HordeError: the request is one that the API refuses.
        """
        key = request.key or self.settings.accounts[-1].key
        return self.horde.ask(_horde_body(request), self.horde.workers.account(key)).handle


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()  # it never ends by itself: this raises what ended it


def _horde_body(request: HordeRequest) -> dict[str, Any]:
    params = {
        "n": request.n,
        "width": request.width,
        "height": request.height,
        "steps": request.steps,
        "sampler_name": request.sampler_name,
        "cfg_scale": request.cfg_scale,
        "seed": request.seed,
    }
    body = {
        "prompt": request.prompt,
        "params": {name: value for name, value in params.items() if value is not None} | dict(request.params),
        "models": list(request.models),
        "source_image": base64.b64encode(request.source_image).decode() if request.source_image else None,
        "source_processing": request.source_processing,
    }
    return {name: value for name, value in body.items() if value is not None} | dict(request.extra)


def _size(request: ImageRequest) -> tuple[int, int]:
    if request.width is None and request.height is None and request.source_image is not None:
        with Image.open(BytesIO(request.source_image)) as image:
            return matched_size(*image.size)
    return request.width or DEFAULT_SIDE, request.height or DEFAULT_SIDE
