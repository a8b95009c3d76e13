"""Jobs that harm whoever takes them, among ordinary ones on both networks: what the ordinary ones get of it.

A real worker with a real device process serves a local grid. Every ordinary request is made alone first; amid the
poison it must come back acknowledged, with the same picture.
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import numpy as np
from loguru import logger
from numpy.typing import NDArray
from PIL import Image

from trt_worker.app import open_worker
from trt_worker.config.schema import Config
from trt_worker.local_grid.payload import build_payload
from trt_worker.local_grid.recipe import choose_recipe
from trt_worker.local_grid.requests import HordeRequest, ImageRequest
from trt_worker.local_grid.server import LocalGrid
from trt_worker.local_grid.settings import GridSettings, HordeSettings

ORDINARY = 1_000
POISON = 100
AT_ONCE = 12  # ordinary jobs under way
CONNECTIONS = 8
SIDE = 64  # pixels
STEPS = 2
RUN_SECONDS = 900.0
MOST_DIFFERENCE = 1
"""Of 255, in a PNG: rows that share a step are summed in another order than one alone."""

MOST_LOSSY_DIFFERENCE = 12
"""Of 255, in the Horde's WebP: a pixel that differs by one may be quantised otherwise, with its neighbours."""

Picture = NDArray[np.uint8]
Ordinary = ImageRequest | HordeRequest
Poison = Callable[[LocalGrid], Awaitable[object]]


@dataclass(slots=True, kw_only=True)
class PoisonReport:
    """What became of the ordinary jobs."""

    poison_jobs: int = 0
    answered: int = 0  # acknowledged, with the picture that they give alone
    devices_lost: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, float]:
        """By the names of the suite."""
        return {
            "poison_jobs": float(self.poison_jobs),
            "ordinary_answered": float(self.answered),
            "devices_lost": float(self.devices_lost),
        }


def measure() -> dict[str, float]:
    """The figures of the suite."""
    report = anyio.run(poison, backend_options={"use_uvloop": True})
    for problem in report.problems[:20]:
        logger.warning("{}", problem)
    return report.figures


def ordinary_requests() -> Sequence[Ordinary]:
    """What is asked for again and again: different prompts, seeds, samplers and source images."""
    samplers = ("euler", "dpmpp_2m", "euler_ancestral", "heun", "dpmpp_2m_sde")
    requests: list[Ordinary] = []
    for number in range(20):
        prompt, sampler = f"{number} red circles", samplers[number % len(samplers)]
        shared: dict[str, Any] = {"prompt": prompt, "width": SIDE, "height": SIDE, "steps": STEPS}
        if number % 5 in {1, 3}:
            requests.append(HordeRequest(**shared, seed=str(number), sampler_name=f"k_{sampler}", extra={"r2": False}))
        else:
            source: dict[str, Any] = {"source_image": a_source(number), "denoise": 0.5} if number % 5 == 4 else {}
            requests.append(ImageRequest(**shared, seed=number, sampler=sampler, ext="png", **source))
    return requests


def poisons(count: int) -> Iterator[Poison]:
    """So many jobs that are to harm nobody but themselves."""
    kinds = (
        *(repeated_levels(sampler) for sampler in ("dpmpp_2m", "dpmpp_3m_sde", "res_multistep", "lms", "deis")),
        *(largest_numbers(horde=horde) for horde in (False, True)),
        *(odd_sides(width, height) for width, height in ((72, 136), (88, 64), (64, 104))),
        *(
            source_at(address)
            for address in ("http://xn--a/", "https://xn--a/", "https://[", "https://xn--zzzz.xn--a:99999999/")
        ),
        *(many_characters(horde=horde) for horde in (False, True)),
        sampler_name,
        long_id,
    )
    return islice(cycle(kinds), count)


def repeated_levels(sampler: str) -> Poison:
    """1,050 levels out of a table of 1,000: neighbours are equal."""
    request = ImageRequest(
        width=SIDE,
        height=SIDE,
        steps=21,
        denoise=0.02,
        sampler=sampler,
        scheduler="simple",
        source_image=a_source(0),
    )
    return lambda grid: grid.submit_grid(request)


def largest_numbers(*, horde: bool) -> Poison:
    """The largest weights and guidance that the networks let through."""
    prompt = f"(a red circle:{'9' * 37}), ((blue:{'9' * 38}))"
    if horde:
        asked = HordeRequest(prompt=prompt, width=SIDE, height=SIDE, steps=STEPS, cfg_scale=100, extra={"r2": False})
        return lambda grid: grid.submit_horde(asked)
    request = ImageRequest(prompt=prompt, width=SIDE, height=SIDE, steps=STEPS, cfg=100)
    return lambda grid: grid.submit_grid(request)


def odd_sides(width: int, height: int) -> Poison:
    """Multiples of 8 that are none of what the network halves its picture to."""
    request = ImageRequest(width=width, height=height, steps=STEPS)
    return lambda grid: grid.submit_grid(request)


def source_at(address: str) -> Poison:
    """A source image at an address that cannot be read as one."""

    async def ask(grid: LocalGrid) -> object:
        request = ImageRequest(width=SIDE, height=SIDE, steps=STEPS)
        recipe = choose_recipe(grid.recipes, request.model, name=None, with_image=True)
        payload = build_payload(request, recipe, seed=1, size=(SIDE, SIDE), source_url=address)
        return grid.coordinator.submit(model=request.model, payload=payload, probe=False)

    return ask


def many_characters(*, horde: bool) -> Poison:
    """A prompt of 112 kB: lines, brackets and what terminals take for commands."""
    prompt = ("(\x1b[2Ja red circle\n" * 7_000)[:112_000]
    if horde:
        asked = HordeRequest(prompt=prompt, width=SIDE, height=SIDE, steps=STEPS, extra={"r2": False})
        return lambda grid: grid.submit_horde(asked)
    return lambda grid: grid.submit_grid(ImageRequest(prompt=prompt, width=SIDE, height=SIDE, steps=STEPS))


async def sampler_name(grid: LocalGrid) -> object:
    """A sampler's name of 112 kB, over many lines."""
    request = ImageRequest(width=SIDE, height=SIDE, steps=STEPS, sampler="k_euler\nERROR forged " * 5_000)
    payload = build_payload(request, None, seed=1, size=(SIDE, SIDE), source_url=None)
    return grid.coordinator.submit(model=request.model, payload=payload, probe=False)


async def long_id(grid: LocalGrid) -> object:
    """A job's id of 1.1 MB, another one every time."""
    request = ImageRequest(width=SIDE, height=SIDE, steps=STEPS)
    payload = build_payload(request, None, seed=1, size=(SIDE, SIDE), source_url=None)
    job_id = grid.coordinator.new_id() + "f" * 1_100_000
    return grid.coordinator.submit(model=request.model, payload=payload, probe=False, job_id=job_id)


async def poison(ordinary: int = ORDINARY, poisonous: int = POISON, backend: str = "onnxruntime") -> PoisonReport:
    """Serve ordinary jobs and poisonous ones among them, evenly spread.

    Raises: TimeoutError: an ordinary job was never answered.
    """
    report = PoisonReport()
    settings = GridSettings(max_requeues=3, horde=HordeSettings(drops_before_maintenance=10**9))
    async with LocalGrid(settings) as grid:
        with TemporaryDirectory() as logs:
            async with open_worker(_config(grid, backend), log_directory=Path(logs)) as worker:
                await grid.connected(CONNECTIONS)
                requests = ordinary_requests()
                alone = [await _picture(grid, request) for request in requests]
                if (failed := next((one for one in alone if isinstance(one, str)), None)) is not None:
                    raise RuntimeError(f"an ordinary job fails alone: {failed}")
                places = anyio.CapacityLimiter(AT_ONCE)
                kinds = poisons(poisonous)

                async def ask(number: int) -> None:
                    which = number % len(requests)
                    got = await _picture(grid, requests[which])
                    problem = got if isinstance(got, str) else _difference(requests[which], got, alone[which])
                    report.answered += not problem
                    if problem:
                        report.problems.append(f"job {number}: {problem}")

                async def in_turn(number: int) -> None:
                    try:
                        await ask(number)
                    finally:
                        places.release_on_behalf_of(number)

                with anyio.fail_after(RUN_SECONDS):
                    async with anyio.create_task_group() as customers:
                        for number in range(ordinary):
                            if number * poisonous // ordinary < (number + 1) * poisonous // ordinary:
                                await next(kinds)(grid)
                                report.poison_jobs += 1
                            await places.acquire_on_behalf_of(number)
                            customers.start_soon(in_turn, number)
                report.devices_lost = sum(link.restarts for link in worker.links)
                worker.stop.set()
    return report


def _config(grid: LocalGrid, backend: str) -> Config:
    return Config.model_validate(
        {
            "api_key": grid.key,
            "dreamer_name": "poisoned",
            "network": "both",
            "grid_url": grid.worker_url,
            "grid_http_url": grid.url,
            "horde_url": grid.horde_url,
            "grid_connections": CONNECTIONS,
            "models_to_load": ["shapes-tiny"],
            "backends": [backend],
            "queue_size": 4,
            "stats_output_frequency": 0,
        }
    )


async def _picture(grid: LocalGrid, request: Ordinary) -> Picture | str:
    """One ordinary job's picture, or why there is none."""
    if isinstance(request, HordeRequest):
        made = await (await grid.submit_horde(request)).result()
        if made.faulted or not made.done or len(made.images) != 1 or made.images[0].data is None:
            return f"faulted {made.faulted}, {len(made.images)} image(s)"
        return _decoded(made.images[0].data)
    result = await (await grid.submit_grid(request)).result()
    if result.status != 200 or len(result.images) != 1:
        return f"{result.status} {result.message}"
    return _decoded(result.images[0].data)


def _decoded(data: bytes) -> Picture:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def _difference(request: Ordinary, picture: Picture, alone: Picture | str) -> str:
    if isinstance(alone, str) or picture.shape != alone.shape:
        return f"its picture is of {picture.shape}"
    most = int(np.abs(picture.astype(int) - alone).max())
    bound = MOST_LOSSY_DIFFERENCE if isinstance(request, HordeRequest) else MOST_DIFFERENCE
    return f"its picture differs by {most} from the one it gives alone" if most > bound else ""


def a_source(number: int) -> bytes:
    """A source image: one colour, as a PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (40 * number % 256, 90, 200)).save(buffer, "PNG")
    return buffer.getvalue()
