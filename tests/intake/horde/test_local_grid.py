"""The transport against the local grid, which answers as both servers do: queue, storage and books included."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream
from PIL import Image

from trt_worker.delivery import EncodedImage, Offer, Receipt, Settlement
from trt_worker.intake.horde.settings import HordeSettings
from trt_worker.intake.horde.transport import HordeTransport
from trt_worker.local_grid import Dialect, GridSettings, HordeRequest, LocalGrid
from trt_worker.local_grid import HordeSettings as ServerSettings
from trt_worker.submit.submit import submit
from trt_worker.submit.upload import Uploader

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("dialect", list(Dialect))]

REGEN = "AI Horde Worker reGen:13.0.0:https://example.org"  # an agent that the servers' tables know

AnImage = Callable[..., EncodedImage]


def a_picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (128, 128), "red").save(file, kind)
    return file.getvalue()


@asynccontextmanager
async def at_work(
    dialect: Dialect, gate: Any, a_settings: Callable[..., HordeSettings], an_image: AnImage
) -> AsyncIterator[tuple[LocalGrid, list[Offer], list[Receipt]]]:
    """A worker that draws the same picture for whatever is asked."""
    offers: list[Offer] = []
    receipts: list[Receipt] = []
    data = a_picture("WEBP")

    async def work(receive: MemoryObjectReceiveStream[Offer]) -> None:
        async with receive, aiohttp.ClientSession() as session:
            async for offer in receive:
                offers.append(offer)
                images = [an_image(index, seed.value, data) for index, seed in enumerate(offer.job.seeds)]
                receipts.append(await submit(offer, images, Uploader(lambda network: session)))

    async with LocalGrid(GridSettings(horde=ServerSettings(dialect=dialect))) as grid:
        settings = a_settings(url=grid.url + "/api", api_key=grid.key, bridge_agent=REGEN)
        transport = HordeTransport(settings, gate)
        send, receive = anyio.create_memory_object_stream[Offer](4)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work, receive)
                async with send, anyio.create_task_group() as running:
                    await running.start(transport.run, send)
                    yield grid, offers, receipts
                    transport.stop_taking()
        assert grid.violations() == []


async def test_a_batch_goes_from_the_queue_to_its_requester(
    dialect: Dialect,
    gate: Any,
    a_model: Callable[..., Any],
    a_settings: Callable[..., HordeSettings],
    an_image: AnImage,
) -> None:
    gate.models = {"SDXL 1.0": a_model("SDXL 1.0", native=1024)}
    async with at_work(dialect, gate, a_settings, an_image) as (grid, offers, receipts):
        request = HordeRequest(models=("SDXL 1.0",), n=2, width=512, height=512, seed="7", prompt="a ### b")
        result = await (await grid.submit_horde(request)).result()

        assert (result.done, result.faulted, len(result.images)) == (True, False, 2)
        assert {image.data for image in result.images} == {a_picture("WEBP")}
        assert {offer.job.model for offer in offers} == {"SDXL 1.0"}
        assert {(offer.job.prompt, offer.job.negative_prompt) for offer in offers} == {("a", "b")}
    assert {receipt.settlement for receipt in receipts} == {Settlement.PAID}
    assert sum(receipt.reward for receipt in receipts) > 0


async def test_a_source_image_reaches_the_job(
    dialect: Dialect, gate: Any, a_settings: Callable[..., HordeSettings], an_image: AnImage
) -> None:
    async with at_work(dialect, gate, a_settings, an_image) as (grid, offers, _):
        request = HordeRequest(
            models=("stable_diffusion",),
            source_image=a_picture("PNG"),
            source_processing="img2img",
            params={"denoising_strength": 0.6},
        )
        result = await (await grid.submit_horde(request)).result()

        assert result.done
        assert offers[0].job.source is not None
        assert offers[0].job.strength == 0.6


async def test_a_job_with_a_feature_not_served_is_never_handed_out(
    dialect: Dialect, gate: Any, a_settings: Callable[..., HordeSettings], an_image: AnImage
) -> None:
    async with at_work(dialect, gate, a_settings, an_image) as (grid, offers, _):
        models = ("stable_diffusion",)
        await grid.submit_horde(HordeRequest(models=models, params={"loras": [{"name": "1"}]}))
        served = await grid.submit_horde(HordeRequest(models=models))

        assert (await served.result()).done
        assert len(offers) == 1


async def test_a_job_that_can_never_be_made_comes_back_once_and_is_then_over(
    dialect: Dialect, gate: Any, a_settings: Callable[..., HordeSettings], an_image: AnImage
) -> None:
    gate.refuses = lambda job: "it would be late"
    async with at_work(dialect, gate, a_settings, an_image) as (grid, offers, _):
        handle = await grid.submit_horde(HordeRequest(models=("stable_diffusion",)))
        result = await handle.result()

        assert (result.done, result.images, offers) == (True, (), [])
        assert len(grid.ledger[handle.id].dispatched) == 2
