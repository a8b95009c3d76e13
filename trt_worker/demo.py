"""The demo: a local grid on this machine, a worker for it, and every picture looked at again."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from loguru import logger
from PIL import Image, UnidentifiedImageError

from trt_worker.app import Worker, open_worker
from trt_worker.config.schema import Config
from trt_worker.local_grid.requests import GridResult, HordeRequest, HordeResult, ImageRequest
from trt_worker.local_grid.server import LocalGrid
from trt_worker.telemetry.status import status_block

CONNECTIONS = 8
_SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
_COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "cyan")
_BACKGROUNDS = ("", " on a grey background", " on a black background", " on a brown background")
_SIZES = ((128, 128), (128, 128), (192, 192), (128, 192), (256, 256))
_SAMPLERS = ("k_euler", "k_euler_a", "k_dpmpp_2m", "k_heun", "k_dpmpp_sde", "k_lms", "DDIM", "k_dpm_2")
_FORMATS = {"webp": "WEBP", "png": "PNG", "jpg": "JPEG"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One job of the demo."""

    horde: bool
    prompt: str
    width: int
    height: int
    steps: int
    sampler: str
    cfg: float
    images: int
    format: str
    seed: int


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of the demo."""

    jobs: int = 0
    acked: int = 0
    images: int = 0
    verified: int = 0
    occupancy: float = 0.0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    pictures: list[tuple[str, bytes]] = field(default_factory=list, repr=False)

    @property
    def figures(self) -> dict[str, object]:
        """By the names the bench uses."""
        return {
            "jobs": self.jobs,
            "acked": self.acked,
            "images": self.images,
            "verified": self.verified,
            "occupancy": round(self.occupancy, 2),
            "images_per_s": round(self.images / self.seconds, 3) if self.seconds else 0.0,
            "seconds": round(self.seconds, 1),
        }


def wishes(jobs: int, seed: int = 1) -> list[Wish]:
    """Mixed prompts, sizes, steps, samplers, formats and image counts; every third goes over the Horde."""
    rng = random.Random(seed)
    made = []
    for number in range(jobs):
        horde = number % 3 == 2
        width, height = rng.choice([size for size in _SIZES if not horde or size[0] % 64 == 0])
        made.append(
            Wish(
                horde=horde,
                prompt=f"a {rng.choice(_COLOURS)} {rng.choice(_SHAPES)}{rng.choice(_BACKGROUNDS)}",
                width=width,
                height=height,
                steps=rng.randint(8, 16),
                sampler=rng.choice(_SAMPLERS),
                cfg=rng.choice((1.0, 3.0, 4.0, 5.0)),
                images=1 + number % 4,
                format="webp" if horde else ("webp", "png", "jpg")[number % 3 if number % 2 else number // 2 % 3],
                seed=rng.randrange(2**32),
            )
        )
    return made


async def run_demo(jobs: int, *, log_directory: Path, verbosity: int = 0) -> Outcome:
    """Serve `jobs` mixed jobs over real sockets on this machine and check every image that arrives."""
    outcome = Outcome(jobs=jobs)
    async with LocalGrid() as grid:
        config = Config.model_validate(
            {
                "api_key": grid.key,
                "dreamer_name": "demo",
                "network": "both",
                "grid_url": grid.worker_url,
                "grid_http_url": grid.url,
                "horde_url": grid.horde_url,
                "grid_connections": CONNECTIONS,
                "models_to_load": ["shapes-tiny"],
                "queue_size": 4,
                "stats_output_frequency": 10.0,
            }
        )
        async with open_worker(config, log_directory=log_directory, verbosity=verbosity) as worker:
            await grid.connected(CONNECTIONS)
            began = anyio.current_time()
            async with anyio.create_task_group() as customers:
                for wish in wishes(jobs):
                    customers.start_soon(_ask, grid, wish, outcome)
            outcome.seconds = anyio.current_time() - began
            _sum_up(worker, outcome)
        outcome.problems += grid.violations()
    return outcome


async def _ask(grid: LocalGrid, wish: Wish, outcome: Outcome) -> None:
    """One customer: ask, wait, look at every image."""
    if wish.horde:
        handle = await grid.submit_horde(
            HordeRequest(
                prompt=wish.prompt,
                n=wish.images,
                width=wish.width,
                height=wish.height,
                steps=wish.steps,
                sampler_name=wish.sampler,
                cfg_scale=wish.cfg,
                seed=str(wish.seed),
                extra={"r2": False},  # a worker that says its own name gets no other jobs from a Horde
            )
        )
        _judge_horde(wish, await handle.result(), outcome)
    else:
        asked = await grid.submit_grid(
            ImageRequest(
                prompt=wish.prompt,
                n=wish.images,
                width=wish.width,
                height=wish.height,
                steps=wish.steps,
                sampler=wish.sampler.lower().removeprefix("k_").replace("euler_a", "euler_ancestral"),
                scheduler="karras",
                cfg=wish.cfg,
                seed=wish.seed,
                ext=wish.format,
            )
        )
        _judge_grid(wish, await asked.result(), outcome)


def _judge_grid(wish: Wish, result: GridResult, outcome: Outcome) -> None:
    if result.status == 200 and result.den > 0:
        outcome.acked += 1
    else:
        outcome.problems.append(f"{wish.prompt}: {result.status} {result.message}")
    for image in result.images:
        claimed = hashlib.sha256(image.data).hexdigest() == image.sha256
        _judge_image(wish, image.data, outcome, "" if claimed else "its hash is not the one claimed")


def _judge_horde(wish: Wish, result: HordeResult, outcome: Outcome) -> None:
    images = [image for image in result.images if image.data is not None and image.kudos > 0]
    if result.done and not result.faulted and len(images) == wish.images:
        outcome.acked += 1
    else:
        outcome.problems.append(f"{wish.prompt}: faulted {result.faulted}, {len(images)} of {wish.images} images")
    for image in images:
        _judge_image(wish, image.data or b"", outcome, "")


def _judge_image(wish: Wish, data: bytes, outcome: Outcome, problem: str) -> None:
    outcome.images += 1
    problem = problem or _problem_with(data, wish)
    if problem:
        outcome.problems.append(f"{wish.prompt}: {problem}")
        return
    outcome.verified += 1
    outcome.pictures.append((wish.prompt, data))


def _problem_with(data: bytes, wish: Wish) -> str:
    """What is wrong with an image; empty when it can be decoded and has the size and format asked for."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            found, size = picture.format, picture.size
    except (UnidentifiedImageError, OSError) as error:
        return f"it cannot be decoded: {error}"
    if found != _FORMATS[wish.format]:
        return f"it is {found} instead of {_FORMATS[wish.format]}"
    if size != (wish.width, wish.height):
        return f"it is {size[0]}x{size[1]} instead of {wish.width}x{wish.height}"
    return ""


def _sum_up(worker: Worker, outcome: Outcome) -> None:
    snapshot = worker.snapshot()
    outcome.occupancy = snapshot.occupancy or 0.0
    logger.info("Status\n{}", "\n".join(status_block(snapshot, 100)))


def contact_sheet(pictures: Sequence[tuple[str, bytes]], path: Path, columns: int = 8, side: int = 128) -> None:
    """All pictures of the demo on one sheet, for the person who ran it."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, max(1, rows) * side), "white")
    for number, (_, data) in enumerate(pictures):
        with Image.open(io.BytesIO(data)) as picture:
            thumbnail = picture.convert("RGB")
            thumbnail.thumbnail((side - 4, side - 4))
            left, top = number % columns * side, number // columns * side
            sheet.paste(thumbnail, (left + (side - thumbnail.width) // 2, top + (side - thumbnail.height) // 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
