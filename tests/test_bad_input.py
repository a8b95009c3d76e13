"""What no job should bring: each ends in a clear error, for its customer and in the log, and the next job runs."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process
from PIL import Image

from trt_worker.errors import BadJob, BadSourceImage, UnservableJob
from trt_worker.local_grid.faults import Fault, Faults
from trt_worker.local_grid.requests import GridResult, ImageRequest
from trt_worker.local_grid.server import LocalGrid

pytestmark = pytest.mark.anyio

Payload = dict[str, Any]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@dataclass
class Site:
    """A local grid, one worker process whose device costs nothing, and where that logs."""

    grid: LocalGrid
    worker: Process
    log: Path

    async def ask(self, change: Callable[[Payload], object], source: bytes | None = None) -> GridResult:
        """The end of a job whose payload was changed on its way to the worker."""
        with anyio.fail_after(30):
            plain = await self.grid.submit_grid(ImageRequest(width=64, height=64, steps=2, source_image=source))
            await plain.result()
            payload = {**plain.payload, "recipe_spec": _copy(plain.payload["recipe_spec"])}
            change(payload)
            return await self.grid.coordinator.submit(model="shapes-tiny", payload=payload, probe=False).result()

    async def ask_with(self, source: bytes, change: Callable[[Payload], object] = lambda _: None) -> GridResult:
        """The end of a job that starts from a picture, which is fetched from the grid's store."""
        good = io.BytesIO()
        Image.new("RGB", (64, 64), "red").save(good, "PNG")
        key = f"sources/{self.grid.coordinator.new_id()}.png"
        self.grid.storage.add(key, source, "image/png")
        address = self.grid.storage.address(key, seconds=60)

        def send(payload: Payload) -> None:
            payload["source_image_url"] = address
            change(payload)

        return await self.ask(send, good.getvalue())

    async def serves(self) -> bool:
        """Whether the same process does an ordinary job."""
        with anyio.fail_after(30):
            result = await (await self.grid.submit_grid(ImageRequest(width=64, height=64, steps=2, n=2))).result()
        return result.status == 200 and len(result.images) == 2 and self.worker.returncode is None


def _copy(spec: Any) -> Any:
    return {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in spec.items()}


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("bad-input")
    async with LocalGrid() as grid:
        settings = {
            "api_key": grid.key,
            "dreamer_name": "rig",
            "network": "grid",
            "grid_url": grid.worker_url,
            "grid_http_url": grid.url,
            "grid_connections": 1,
            "backends": "dummy",
            "log_dir": folder,
        }
        variables = {f"AIWORKER_{name.upper()}": str(value) for name, value in settings.items()}
        worker = await anyio.open_process(
            [sys.executable, "-m", "trt_worker", "run", "-e"],
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with anyio.fail_after(60):
                await grid.connected(1)
            yield Site(grid=grid, worker=worker, log=folder / "bridge.log")
        finally:
            worker.kill()
            await worker.aclose()


def a_sampler(payload: Payload) -> Payload:
    """The inputs of the node that samples."""
    node = next(node for node in payload["recipe_spec"].values() if node["class_type"] == "KSampler")
    inputs: Payload = node["inputs"]
    return inputs


def a_circle(payload: Payload) -> None:
    """The prompt's text comes from a node that takes it from itself."""
    spec = payload["recipe_spec"]
    encoder = spec[a_sampler(payload)["positive"][0]]["inputs"]
    encoder["text"] = ["round", 0]
    spec["round"] = {"class_type": "PrimitiveString", "inputs": {"value": ["about", 0]}}
    spec["about"] = {"class_type": "PrimitiveString", "inputs": {"value": ["round", 0]}}


def a_latent(payload: Payload, **inputs: object) -> None:
    payload["recipe_spec"][a_sampler(payload)["latent_image"][0]]["inputs"].update(inputs)


def a_bomb(side: int = 60_000) -> bytes:
    """A PNG of a few hundred bytes that says it is 3.6 gigapixels large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


def a_damaged_picture() -> bytes:
    """An AVIF of which only the header is sound."""
    good = (Path(__file__).parent / "data" / "pictures" / "plain.avif").read_bytes()
    return good[:-300] + bytes(300)


def without_a_resize(payload: Payload) -> None:
    """The source image is encoded as it is."""
    spec = payload["recipe_spec"]
    load = next(number for number, node in spec.items() if node["class_type"] == "LoadImage")
    next(node for node in spec.values() if node["class_type"] == "VAEEncode")["inputs"]["pixels"] = [load, 0]


@pytest.mark.parametrize(
    ("change", "public", "told"),
    [
        (a_circle, BadJob.public, "depends on itself"),
        (lambda job: a_sampler(job).update(positive=["nowhere", 0]), BadJob.public, "nowhere"),
        (lambda job: a_sampler(job).update(positive=None), BadJob.public, "positive"),
        (lambda job: a_sampler(job).update(steps="many"), BadJob.public, "steps"),
        (lambda job: a_sampler(job).update(seed=-1), BadJob.public, "seed"),
        (lambda job: a_sampler(job).update(seed=1e30), BadJob.public, "seed"),
        (lambda job: a_sampler(job).update(sampler_name="magic"), UnservableJob.public, "magic"),
        (lambda job: a_latent(job, width=63), BadJob.public, "width"),
        (lambda job: a_latent(job, height=10**9), BadJob.public, "height"),
        (lambda job: job.update(recipe_spec=[]), BadJob.public, "graph"),
        (lambda job: job.update(seeds=[-1]), BadJob.public, "seeds"),
        (lambda job: job.update(seeds=[1e30]), BadJob.public, "seeds"),
        (lambda job: job.update(seeds="seven"), BadJob.public, "seeds"),
        (lambda job: job.update(n=5), BadJob.public, "n is out of range"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_defective_job_is_named_in_the_log_and_the_next_one_runs(
    site: Site, change: Callable[[Payload], object], public: str, told: str
) -> None:
    before = site.log.read_text()

    result = await site.ask(change)

    assert (result.status, result.message) == (502, public)
    (line,) = [line for line in site.log.read_text().removeprefix(before).splitlines() if "given up" in line]
    assert told in line
    assert await site.serves()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (a_bomb(), "megapixels"),
        (a_damaged_picture(), "cannot be decoded: RuntimeError"),
        (b"GIF89a" + bytes(100), "is not PNG"),
        (b"<html>no picture</html>", "is not PNG"),
        (b"", "is not PNG"),
    ],
    ids=["bomb", "damaged", "gif", "html", "empty"],
)
async def test_a_source_that_is_no_picture_fails_its_job_alone(site: Site, source: bytes, told: str) -> None:
    before = site.log.read_text()

    result = await site.ask_with(source)

    assert (result.status, result.message) == (502, BadSourceImage.public)
    assert told in site.log.read_text().removeprefix(before)
    assert await site.serves()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("exif6-256x128.jpg", (128, 256)),
        ("no-eoi.jpg", (256, 192)),
        ("odd-515x517.png", (512, 512)),
        ("plain.avif", (128, 128)),
        ("plain.gif", (128, 128)),
        ("plain.tiff", (128, 128)),
        ("truncated.jpg", (256, 192)),
    ],
)
async def test_a_picture_as_customers_send_it_is_drawn_at_the_size_it_has_once_decoded(
    site: Site, the_picture: Callable[[str], bytes], name: str, size: tuple[int, int]
) -> None:
    result = await site.ask_with(the_picture(name), without_a_resize)

    assert result.status == 200
    assert Image.open(io.BytesIO(result.images[0].data)).size == size


async def test_a_prompt_of_100_kilobytes_is_cut_and_drawn(site: Site) -> None:
    prompt = "a red circle (with: brackets) " * 3_500

    def lengthen(payload: Payload) -> None:
        payload["recipe_spec"][a_sampler(payload)["positive"][0]]["inputs"]["text"] = prompt
        payload["prompt"] = prompt

    assert len(prompt) > 100_000
    assert (await site.ask(lengthen)).status == 200
    assert await site.serves()


async def test_a_size_that_is_no_multiple_of_64_is_drawn_as_it_is(site: Site) -> None:
    result = await site.ask(lambda payload: a_latent(payload, width=72, height=136))

    assert result.status == 200
    assert Image.open(io.BytesIO(result.images[0].data)).size == (72, 136)
    assert await site.serves()


async def test_frames_that_are_none_are_passed_over(site: Site) -> None:
    site.grid.faults = Faults(malformed_frame=Fault(count=2), wrong_frame=Fault(count=2))

    assert await site.serves()
    assert await site.serves()
    assert site.grid.violations() == []
