"""The grid behind a proxy."""

from __future__ import annotations

import anyio
import pytest

pytestmark = pytest.mark.anyio


async def test_the_recipes_are_read_through_the_proxy_of_the_environment(
    at_work, lines, little_proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    little_proxy.status = 407
    monkeypatch.setenv("HTTPS_PROXY", little_proxy.url)
    async with at_work(start=False) as work:
        await work.start(url="wss://grid.example/v1/workers/ws", http_url="https://api.grid.example")
        with anyio.fail_after(10):
            await lines.until("shapes-tiny could not be read (the proxy lets nobody through (HTTP 407)")

    assert set(little_proxy.asked) == {"CONNECT api.grid.example:443"}


async def test_connections_take_the_proxy_of_the_environment_and_loopback_does_not(
    at_work, lines, little_proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    little_proxy.status = 407
    monkeypatch.setenv("HTTPS_PROXY", little_proxy.url)
    monkeypatch.setenv("HTTP_PROXY", little_proxy.url)
    async with at_work(start=False) as work:
        await work.start(url="wss://grid.example/v1/workers/ws")  # the recipes are on this machine
        with anyio.fail_after(10):
            await lines.until("the proxy lets nobody through (HTTP 407)")

    assert set(little_proxy.asked) == {"CONNECT grid.example:443"}
