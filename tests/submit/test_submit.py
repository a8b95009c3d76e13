from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from loguru import logger

from trt_worker.delivery import Delivery, EncodedImage, Offer, Receipt, Settlement
from trt_worker.errors import TransportError
from trt_worker.job import JobSpec
from trt_worker.submit.submit import submit

SECRET = "X-Amz-Signature=0123456789abcdef"

AnImage = Callable[..., EncodedImage]
AJob = Callable[..., JobSpec]
Make = Callable[..., Any]


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), format="{level} {message}", level="WARNING")
    yield lines
    logger.remove(sink)


def an_offer(job: JobSpec, delivery: Delivery) -> Offer:
    return Offer(job=job, delivery=delivery, transport="grid")


def test_all_images_are_uploaded_and_then_handed_in_in_order(
    open_workplace: Make, an_image: AnImage, a_job: AJob, a_delivery: Make, logged: list[str]
) -> None:
    images = [an_image(index, bytes([index]) * 9) for index in range(3)]

    async def main() -> None:
        async with open_workplace() as place:
            delivery = a_delivery([place.store.slot(str(index)) for index in range(3)])
            receipt = await submit(an_offer(a_job(3), delivery), images, place.uploader)
            assert receipt == Receipt(settlement=Settlement.PAID, reward=2.0, unit="den")
            assert delivery.delivered == [images]
            bodies = {put.path[1]: put.body for put in place.store.puts}
            assert bodies == {"0": b"\0" * 9, "1": b"\1" * 9, "2": b"\2" * 9}

    anyio.run(main)
    assert logged == []


def test_uploads_run_at_the_same_time(open_workplace: Make, an_image: AnImage, a_job: AJob, a_delivery: Make) -> None:
    async def main() -> None:
        async with open_workplace() as place:
            together = anyio.Event()
            waiting = 0
            answer = place.uploader.put

            class Meeting:
                """Lets no upload begin before all three are there."""

                async def put(self, *arguments: Any) -> None:
                    nonlocal waiting
                    waiting += 1
                    if waiting == 3:
                        together.set()
                    await together.wait()
                    await answer(*arguments)

            delivery = a_delivery([place.store.slot(str(index)) for index in range(3)])
            images = [an_image(index) for index in range(3)]
            with anyio.fail_after(10):
                await submit(an_offer(a_job(3), delivery), images, Meeting())  # type: ignore[arg-type]
            assert len(place.store.puts) == 3

    anyio.run(main)


def test_images_without_a_slot_travel_inline(
    open_workplace: Make, an_image: AnImage, a_job: AJob, a_delivery: Make
) -> None:
    async def main() -> None:
        async with open_workplace() as place:
            delivery = a_delivery([None, place.store.slot("1")])
            images = [an_image(0), an_image(1)]
            await submit(an_offer(a_job(2), delivery), images, place.uploader)
            assert delivery.delivered == [images]
            assert [put.path[1] for put in place.store.puts] == ["1"]

    anyio.run(main)


def test_an_image_that_cannot_be_uploaded_is_handed_in_as_missing_and_logged_once(
    open_workplace: Make, an_image: AnImage, a_job: AJob, a_delivery: Make, logged: list[str]
) -> None:
    async def main() -> None:
        async with open_workplace(403) as place:
            delivery = a_delivery([place.store.slot("0"), None])
            receipt = await submit(an_offer(a_job(2), delivery), [an_image(0), an_image(1)], place.uploader)
            assert receipt.settlement is Settlement.PAID
            assert delivery.delivered == [[None, an_image(1)]]

    anyio.run(main)
    assert len(logged) == 1
    assert "job-1" in logged[0]
    assert "HTTP 403" in logged[0]
    assert SECRET not in logged[0]


def test_an_image_that_could_not_be_made_stays_missing(
    open_workplace: Make, an_image: AnImage, a_job: AJob, a_delivery: Make
) -> None:
    async def main() -> None:
        async with open_workplace() as place:
            delivery = a_delivery([place.store.slot("0"), place.store.slot("1")])
            await submit(an_offer(a_job(2), delivery), [None, an_image(1)], place.uploader)
            assert delivery.delivered == [[None, an_image(1)]]
            assert len(place.store.puts) == 1

    anyio.run(main)


def test_a_job_of_which_nothing_was_uploaded_is_given_up(
    open_workplace: Make, an_image: AnImage, a_job: AJob, a_delivery: Make
) -> None:
    async def main() -> None:
        async with open_workplace(403, 403) as place:
            delivery = a_delivery([place.store.slot("0"), place.store.slot("1")])
            receipt = await submit(an_offer(a_job(2), delivery), [an_image(0), an_image(1)], place.uploader)
            assert receipt.settlement is Settlement.FAILED
            assert delivery.delivered == []
            assert len(delivery.failed) == 1

    anyio.run(main)


def test_a_job_that_is_already_withdrawn_is_neither_uploaded_nor_handed_in(
    open_workplace: Make, an_image: AnImage, a_job: AJob, a_delivery: Make
) -> None:
    async def main() -> None:
        async with open_workplace() as place:
            delivery = a_delivery([place.store.slot()])
            delivery.withdrawn.set()
            receipt = await submit(an_offer(a_job(), delivery), [an_image()], place.uploader)
            assert receipt.settlement is Settlement.RETURNED
            assert (place.store.puts, delivery.delivered, delivery.failed) == ([], [], [])

    anyio.run(main)


def test_a_job_that_is_withdrawn_while_it_is_uploaded_is_left(
    open_workplace: Make, an_image: AnImage, a_job: AJob, a_delivery: Make
) -> None:
    async def main() -> None:
        async with open_workplace(-1) as place:
            delivery = a_delivery([place.store.slot()])

            async def withdraw() -> None:
                await place.store.arrived.wait()
                delivery.withdrawn.set()

            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(withdraw)
                    receipt = await submit(an_offer(a_job(), delivery), [an_image()], place.uploader)
            assert receipt.settlement is Settlement.RETURNED
            assert delivery.delivered == []

    anyio.run(main)


@pytest.mark.parametrize("trouble", [TransportError("socket gone"), ConnectionResetError("reset"), TimeoutError()])
def test_a_result_that_cannot_be_handed_in_is_unacknowledged_and_logged_once(
    open_workplace: Make, an_image: AnImage, a_job: AJob, a_delivery: Make, logged: list[str], trouble: Exception
) -> None:
    async def main() -> None:
        async with open_workplace() as place:
            delivery = a_delivery([None], trouble=trouble)
            receipt = await submit(an_offer(a_job(), delivery), [an_image()], place.uploader)
            assert receipt.settlement is Settlement.UNACKNOWLEDGED
            assert receipt.detail

    anyio.run(main)
    assert len(logged) == 1


def test_more_images_than_slots_lose_the_surplus_only(
    open_workplace: Make, an_image: AnImage, a_job: AJob, a_delivery: Make, logged: list[str]
) -> None:
    async def main() -> None:
        async with open_workplace() as place:
            delivery = a_delivery([place.store.slot()])
            await submit(an_offer(a_job(2), delivery), [an_image(0), an_image(1)], place.uploader)
            assert delivery.delivered == [[an_image(0), None]]

    anyio.run(main)
    assert "no place" in logged[0]
