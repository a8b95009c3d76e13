"""The API key goes to the configured grid and nowhere else."""

from __future__ import annotations

import anyio
import pytest
from aiohttp import web

pytestmark = pytest.mark.anyio


async def test_a_handshake_that_is_sent_elsewhere_ends_there_and_is_told(at_work, lines) -> None:
    asked: list[str] = []

    async def send_elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        raise web.HTTPTemporaryRedirect(f"http://localhost:{request.url.port}/in")

    application = web.Application()
    application.router.add_get("/{path:.*}", send_elsewhere)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with at_work(start=False) as work:
        await work.start(url=f"ws://127.0.0.1:{runner.addresses[0][1]}/v1/workers/ws")
        with anyio.fail_after(10):
            await lines.until("127.0.0.1 answers HTTP 307 and points to localhost, which is not followed")
    await runner.cleanup()

    assert set(asked) == {"/v1/workers/ws"}
