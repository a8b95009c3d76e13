"""Presigned storage, its faults, and the counter for people."""

from __future__ import annotations

import aiohttp
import anyio
import pytest

from trt_worker.local_grid import Fault, Faults, ImageRequest

pytestmark = pytest.mark.anyio


async def test_a_fault_of_the_storage_strikes_the_upload(open_grid) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        await place.grid.submit_grid(ImageRequest())
        slot = (await worker.frame("job"))["upload"][0]

        place.grid.faults = Faults(put_error=Fault(code=503))
        assert await worker.put(slot) == 503
        place.grid.faults = Faults(put_cut=Fault(count=None))  # the client itself tries a PUT twice
        with pytest.raises(aiohttp.ClientError):
            await worker.put(slot)
        assert place.grid.storage.head(slot["key"]) is None
        place.grid.faults = Faults(put_lost=Fault(), slow_upload=Fault(seconds=0.01))
        assert await worker.put(slot) == 200
        assert place.grid.storage.head(slot["key"]) is None
        assert await worker.put(slot) == 200
        assert place.grid.storage.head(slot["key"]) is not None
        assert place.grid.storage.counts["puts"] == 2


async def test_an_address_is_good_for_its_own_method_and_key_only(open_grid) -> None:
    async with open_grid() as place:
        storage = place.grid.storage
        storage.add("a.png", b"a", "image/png")
        storage.add("b.png", b"b", "image/png")
        address = storage.address("a.png", seconds=60)

        async with place.session.get(address) as answer:
            assert (answer.status, await answer.read(), answer.content_type) == (200, b"a", "image/png")
        for wrong in (address.replace("a.png", "b.png"), address.partition("?")[0], address[:-1]):
            async with place.session.get(wrong) as answer:
                assert answer.status == 403
        async with place.session.put(address, data=b"x") as answer:
            assert answer.status == 403
        async with place.session.get(storage.address("none", seconds=60)) as answer:
            assert answer.status == 404


async def test_a_signed_address_is_not_shown_by_a_slot(open_grid) -> None:
    async with open_grid() as place:
        slot = place.grid.storage.slot("a.webp", seconds=60, content_type="image/webp")

        assert "Signature" in slot.put_url
        assert "Signature" not in repr(slot)


async def test_the_counter_answers_with_the_image(open_grid) -> None:
    async with open_grid() as place:
        worker = await place.worker()
        answers: list[tuple[int, bytes, str]] = []

        async def ask() -> None:
            body = b'{"prompt":"a star","width":64,"height":64}'
            async with place.session.post(place.grid.url + "/local/images", data=body) as answer:
                answers.append((answer.status, await answer.read(), answer.headers["X-Worker"]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            job = await worker.frame("job")
            await worker.done(job, await worker.upload(job, b"picture"))

        assert answers == [(200, b"picture", "rig")]
        async with place.session.post(place.grid.url + "/local/images", data=b'{"n":9}') as answer:
            assert answer.status == 422
