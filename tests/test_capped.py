"""Answers that are larger than they look."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from trt_worker.capped import read_capped
from trt_worker.errors import AnswerTooLarge

pytestmark = pytest.mark.anyio
MEGABYTE = 2**20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def an_answer(body: bytes, **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """What a server on this machine answers."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, headers=headers)

    application = web.Application()
    application.router.add_get("/recipe", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/recipe?signature=secret") as response,
        ):
            yield response
    finally:
        await runner.cleanup()


async def test_an_answer_within_the_limit_is_read_whole() -> None:
    async with an_answer(gzip.compress(b"a" * 1000), **{"Content-Encoding": "gzip"}) as response:
        assert await read_capped(response, 1000) == b"a" * 1000


async def test_an_answer_over_the_limit_is_refused_without_its_query_string() -> None:
    async with an_answer(b"a" * 1001) as response:
        with pytest.raises(AnswerTooLarge, match="/recipe answered more than 1000 bytes") as told:
            await read_capped(response, 1000)

    assert "secret" not in str(told.value)


async def test_what_gzip_hides_is_counted_before_it_is_held() -> None:
    bomb = gzip.compress(bytes(256 * MEGABYTE))  # a quarter of a megabyte
    async with an_answer(bomb, **{"Content-Encoding": "gzip"}) as response:
        tracemalloc.start()
        try:
            with pytest.raises(AnswerTooLarge):
                await read_capped(response, 4 * MEGABYTE)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert peak < 16 * MEGABYTE
