from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from trt_worker.delivery import EncodedImage, UploadSlot
from trt_worker.errors import TransportError
from trt_worker.sessions import GuardedSessions
from trt_worker.submit.upload import Uploader

SECRET = "X-Amz-Signature=0123456789abcdef"

AnImage = Callable[..., EncodedImage]
OpenWorkplace = Callable[..., Any]


def in_time() -> float:
    return time.monotonic() + 30


@pytest.mark.parametrize("content_type", ["image/webp", "application/octet-stream", None])
def test_the_slot_gets_the_bytes_with_exactly_its_content_type(
    open_workplace: OpenWorkplace, an_image: AnImage, content_type: str | None
) -> None:
    async def main() -> None:
        async with open_workplace() as place:
            await place.uploader.put(place.store.slot(content_type=content_type), an_image(), in_time())
            (put,) = place.store.puts
            assert (put.body, put.content_type, put.length) == (b"pixels", content_type, "6")

    anyio.run(main)


def test_an_image_of_several_megabytes_arrives_whole_and_with_its_length(
    open_workplace: OpenWorkplace, an_image: AnImage
) -> None:
    data = bytes(range(256)) * (5 * 2**12)

    async def main() -> None:
        async with open_workplace(503) as place:
            await place.uploader.put(place.store.slot(), an_image(data=data), in_time())
            assert [put.body == data for put in place.store.puts] == [True, True]
            assert place.store.puts[0].length == str(len(data))

    anyio.run(main)


def test_the_signed_address_is_sent_as_it_was_signed(open_workplace: OpenWorkplace, an_image: AnImage) -> None:
    path = "bucket/a%2Fb%20c+d.webp?X-Amz-Credential=a%2Fb%2Fus&x=%7E~&X-Amz-Signature=ab%2Bcd%3D"

    async def main() -> None:
        async with open_workplace() as place:
            slot = UploadSlot(url=f"http://127.0.0.1:{place.store.port}/{path}", content_type=None)
            await place.uploader.put(slot, an_image(), in_time())
            assert place.store.puts[0].path == "/" + path

    anyio.run(main)


@pytest.mark.parametrize("answers", [(500,), (503, 502, 504), (0, 0), (429, 408)], ids=str)
def test_what_may_pass_is_tried_again(
    open_workplace: OpenWorkplace, an_image: AnImage, answers: tuple[int, ...]
) -> None:
    async def main() -> None:
        async with open_workplace(*answers) as place:
            await place.uploader.put(place.store.slot(), an_image(), in_time())
            assert len(place.store.puts) == len(answers) + 1

    anyio.run(main)


def test_a_store_that_does_not_answer_is_left_and_tried_again(open_workplace: OpenWorkplace, an_image: AnImage) -> None:
    async def main() -> None:
        async with open_workplace(-1, attempt_seconds=0.05) as place:
            await place.uploader.put(place.store.slot(), an_image(), in_time())
            assert len(place.store.puts) == 2

    anyio.run(main)


@pytest.mark.parametrize("status", [400, 403, 404, 410, 307])
def test_a_slot_that_refuses_is_not_tried_again(open_workplace: OpenWorkplace, an_image: AnImage, status: int) -> None:
    body = b"<Error><Code>AccessDenied</Code><StringToSign>" + SECRET.encode() + b"</StringToSign></Error>"

    async def main() -> None:
        async with open_workplace(status, body=body) as place:
            with pytest.raises(TransportError) as refused:
                await place.uploader.put(place.store.slot("key"), an_image(index=3), in_time())
            message = str(refused.value)
            assert f"HTTP {status} AccessDenied" in message
            assert f"image 3 to http://127.0.0.1:{place.store.port}/key" in message
            assert SECRET not in message
            assert len(place.store.puts) == 1

    anyio.run(main)


def test_a_job_that_is_due_gets_one_try_and_then_an_error_without_the_signature(
    open_workplace: OpenWorkplace, an_image: AnImage
) -> None:
    async def main() -> None:
        async with open_workplace(500, 500, 500) as place:
            with pytest.raises(TransportError, match="given up after 1 tries") as given_up:
                await place.uploader.put(place.store.slot(), an_image(), time.monotonic() - 1)
            assert SECRET not in str(given_up.value)
            assert len(place.store.puts) == 1

    anyio.run(main)


def test_a_job_that_is_due_is_still_uploaded_when_the_store_takes_it(
    open_workplace: OpenWorkplace, an_image: AnImage
) -> None:
    async def main() -> None:
        async with open_workplace() as place:
            await place.uploader.put(place.store.slot(), an_image(), time.monotonic() - 1)
            assert len(place.store.puts) == 1

    anyio.run(main)


def test_a_store_that_is_not_there_ends_in_an_error_without_the_signature(
    open_workplace: OpenWorkplace, an_image: AnImage
) -> None:
    async def main() -> None:
        async with open_workplace() as place:
            gone = UploadSlot(url=f"http://127.0.0.1:1/key?{SECRET}", content_type=None)
            with pytest.raises(TransportError, match=r"connection failed.*127|127.*connection failed") as failed:
                await place.uploader.put(gone, an_image(), time.monotonic() + 0.05)
            assert SECRET not in str(failed.value)

    anyio.run(main)


@pytest.mark.parametrize(
    "url",
    [
        "http://storage.example/key?" + SECRET,
        "http://10.0.0.1/key?" + SECRET,
        "http://127.0.0.1.example/key?" + SECRET,
        "ftp://storage.example/key?" + SECRET,
        "file:///etc/passwd?" + SECRET,
        "/key?" + SECRET,
        "http://[::1/key?" + SECRET,
        "http://127.0.0.1:port/key?" + SECRET,
        "",
    ],
)
def test_an_address_that_is_not_safe_gets_nothing(open_workplace: OpenWorkplace, an_image: AnImage, url: str) -> None:
    async def main() -> None:
        async with open_workplace() as place:
            with pytest.raises(TransportError, match="not sent") as refused:
                await place.uploader.put(UploadSlot(url=url, content_type=None), an_image(), in_time())
            assert SECRET not in str(refused.value)

    anyio.run(main)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
def test_a_slot_beside_the_rig_is_refused_at_once_unless_its_network_is_there_too(
    open_workplace: OpenWorkplace, an_image: AnImage, host: str
) -> None:
    async def main() -> None:
        async with open_workplace() as place, GuardedSessions({}, auto_decompress=False) as sessions:
            uploader = Uploader(sessions)
            slot = UploadSlot(url=f"https://{host}:{place.store.port}/key?{SECRET}", content_type=None)
            with pytest.raises(TransportError, match=r"its own network.*not sent") as refused:
                await uploader.put(slot, an_image(), in_time(), "1.1.1.1")
            assert SECRET not in str(refused.value)
            await uploader.put(place.store.slot(), an_image(), in_time(), "127.0.0.1")
            assert len(place.store.puts) == 1

    anyio.run(main)
