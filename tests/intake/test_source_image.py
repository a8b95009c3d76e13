"""Source images: where they may come from, how large they may be, and what they may be."""

from __future__ import annotations

import base64
import binascii
import io
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import anyio
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trt_worker.errors import BadSourceImage
from trt_worker.intake.source_image import (
    check_image_header,
    decode_base64_image,
    fetch_source_image,
    measure_source_image,
)
from trt_worker.pictures import FORMATS
from trt_worker.sessions import open_guarded_session

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SECRET = "signature-7f3a"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def a_picture(kind: str = "PNG", size: tuple[int, int] = (16, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind)
    return file.getvalue()


def a_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + bytes(8), b"IEND")
    framed = (struct.pack(">I", len(body) - 4) + body + struct.pack(">I", binascii.crc32(body)) for body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@asynccontextmanager
async def a_server(handler: Handler) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    application = web.Application()
    application.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with open_guarded_session("127.0.0.1", {}) as session:
            yield session, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def fetch(handler: Handler, *, limit_bytes: int = 10_000, timeout: float = 5.0) -> bytes:
    async with a_server(handler) as (session, url):
        return await fetch_source_image(
            session, f"{url}/a.png?X-Amz={SECRET}", limit_bytes=limit_bytes, timeout=timeout
        )


@pytest.mark.anyio
@pytest.mark.parametrize("kind", FORMATS)
async def test_a_picture_arrives_as_it_was_sent(kind: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=a_picture(kind))

    assert await fetch(answer) == a_picture(kind)


@pytest.mark.anyio
@pytest.mark.parametrize("announced", [True, False])
async def test_a_picture_over_the_limit_is_refused_while_it_arrives(announced: bool) -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        if announced:
            response.content_length = 2**31
        await response.prepare(request)
        for _ in range(2**31 // 2**16):
            await response.write(b"\0" * 2**16)
            sent += 2**16
        return response

    with pytest.raises(BadSourceImage, match="larger than 10000 bytes"):
        await fetch(answer)
    assert sent < 2**26


@pytest.mark.anyio
async def test_redirects_are_followed_a_few_times() -> None:
    async def answer(request: web.Request) -> web.Response:
        left = int(request.query.get("left", "3"))
        if left:
            raise web.HTTPFound(f"/on?left={left - 1}")
        return web.Response(body=a_picture())

    assert await fetch(answer) == a_picture()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("target", "said"),
    [("/round", "redirects more than"), ("http://images.example/x", "https only"), ("ftp://x/y", "https only")],
)
async def test_redirects_in_circles_or_out_of_https_are_refused(target: str, said: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        raise web.HTTPFound(target)

    with pytest.raises(BadSourceImage, match=said):
        await fetch(answer)


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost:9", "10.0.0.1", "[::ffff:127.0.0.1]", "169.254.169.254"])
async def test_a_picture_beside_the_rig_is_refused_to_customers_of_a_public_network(host: str) -> None:
    async with open_guarded_session("1.1.1.1", {}) as session:
        with pytest.raises(BadSourceImage, match="leads to this machine or its own network") as told:
            await fetch_source_image(session, f"https://{host}/a.png?{SECRET}", limit_bytes=10, timeout=5.0)
    assert SECRET not in str(told.value)


@pytest.mark.anyio
@pytest.mark.parametrize("status", [403, 404, 500])
async def test_a_refusal_is_told_without_the_query(status: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=SECRET)

    with pytest.raises(BadSourceImage, match=rf"a\.png answered {status}") as told:
        await fetch(answer)
    assert SECRET not in str(told.value)


@pytest.mark.anyio
async def test_a_server_that_goes_away_is_told_without_the_query() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 5_000
        await response.prepare(request)
        await response.write(b"\x89PNG")
        assert request.transport is not None
        request.transport.abort()
        return response

    with pytest.raises(BadSourceImage, match="could not be fetched") as told:
        await fetch(answer)
    assert SECRET not in str(told.value)


@pytest.mark.anyio
async def test_a_server_that_stops_answering_is_given_up() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"\x89PNG")
        await anyio.sleep_forever()
        return response

    with anyio.fail_after(5), pytest.raises(BadSourceImage, match="could not be fetched: TimeoutError"):
        await fetch(answer, timeout=0.05)


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["http://images.example/x?k=1", "file:///etc/passwd", "x", "", "http://[::1", "//h/p"])
async def test_an_address_that_is_not_https_is_refused(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(BadSourceImage) as told:
            await fetch_source_image(session, url, limit_bytes=10, timeout=1.0)
    assert "k=1" not in str(told.value)


def test_an_inline_picture_is_decoded() -> None:
    assert decode_base64_image(base64.b64encode(a_picture()).decode(), 10_000) == a_picture()


@pytest.mark.parametrize(
    ("text", "limit_bytes", "said"),
    [
        ("", 10_000, "is not PNG"),
        ("aGVsbG8=", 10_000, "is not PNG"),
        ("é", 10_000, "not base64"),
        ("%" + base64.b64encode(a_picture()).decode(), 10_000, "not base64"),
        (base64.b64encode(a_picture()).decode(), 20, "larger than 20 bytes"),
    ],
)
def test_an_inline_picture_that_is_none_or_too_large_is_refused(text: str, limit_bytes: int, said: str) -> None:
    with pytest.raises(BadSourceImage, match=said):
        decode_base64_image(text, limit_bytes)


@pytest.mark.parametrize("size", [(8_193, 8_192), (60_000, 60_000), (1, 2**30)])
def test_a_small_file_with_a_large_picture_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadSourceImage, match="more than 67 megapixels"):
        check_image_header(a_bomb(*size))


def test_a_picture_at_the_limit_is_fine() -> None:
    check_image_header(a_bomb(8_192, 8_192))


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO"])
def test_other_kinds_of_pictures_are_refused(kind: str) -> None:
    with pytest.raises(BadSourceImage, match="is not PNG, JPEG, WEBP, GIF, BMP, TIFF or AVIF"):
        check_image_header(a_picture(kind))


@pytest.mark.anyio
async def test_a_picture_is_measured_as_the_camera_held_it(the_picture: Callable[[str], bytes]) -> None:
    assert await measure_source_image(the_picture("exif6-256x128.jpg"), 10**6) == (128, 256)


@pytest.mark.anyio
async def test_a_picture_that_is_too_large_is_not_decoded_to_be_measured() -> None:
    with pytest.raises(BadSourceImage, match="more than 9 megapixels"):
        await measure_source_image(a_bomb(4_000, 3_000), 9_000_000)


@given(st.binary(max_size=200), st.sampled_from(FORMATS), st.integers(0, 60))
def test_no_bytes_are_more_than_a_refusal(data: bytes, kind: str, kept: int) -> None:
    for body in (data, a_picture(kind)[:kept] + data):
        try:
            check_image_header(body)
        except BadSourceImage:
            continue


@pytest.mark.anyio
@pytest.mark.parametrize("address", ["http://xn--a/", "https://xn--a/picture.png", "https://[", "https://a:999999/"])
async def test_an_address_that_cannot_be_read_as_one_is_a_bad_source(address: str) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(BadSourceImage):
            await fetch_source_image(session, address, limit_bytes=1_000, timeout=5.0)
