"""HTTP and WebSocket sessions: by a proxy, to no redirect's target, and to no neighbour for others."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from trt_worker.sessions import AddressRefused, GuardedSessions, RedirectRefused, open_guarded_session, open_session

HOST = "grid.example"
PUBLIC = "203.0.112.9"  # an address of the Internet; nothing connects to it

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


pytestmark = pytest.mark.anyio


@asynccontextmanager
async def a_server(answer: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    lines: set[asyncio.Transport] = set()

    async def answered(request: web.Request) -> web.StreamResponse:
        if isinstance(request.transport, asyncio.Transport):
            lines.add(request.transport)
        return await answer(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answered)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        for line in lines:
            line.abort()  # its TLS would say goodbye after the loop has ended
        await runner.cleanup()


async def greets(request: web.Request) -> web.StreamResponse:
    """Answers with what it was sent of passwords; a WebSocket gets the same as a message."""
    text = f"hello {request.headers.get('Authorization', 'stranger')}"
    if "Upgrade" not in request.headers:
        return web.Response(text=text)
    line = web.WebSocketResponse()
    await line.prepare(request)
    await line.send_str(text)
    await line.close()
    return line


@pytest.fixture
def own_authority() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """How a server proves that it is HOST, and how clients believe it."""
    authority, server = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


# Proxies


async def test_requests_and_websockets_tunnel_through_the_proxy_and_netrc_stays_closed(
    little_proxy, own_authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text(
        f"machine {HOST} login me password mine\nmachine 127.0.0.1 login me password mine\n"
    )
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server, client = own_authority
    async with a_server(greets, server) as port, open_session({"HTTPS_PROXY": little_proxy.url}) as session:
        little_proxy.hosts[HOST] = port
        async with session.get(f"https://{HOST}/", ssl=client) as response:
            assert await response.text() == "hello stranger"
        async with session.ws_connect(f"wss://{HOST}/ws", ssl=client) as line:
            assert await line.receive_str() == "hello stranger"

    await little_proxy.has_ended()
    assert set(little_proxy.asked) == {f"CONNECT {HOST}:443"}
    assert little_proxy.passwords == []


async def test_a_request_without_tls_is_passed_on_by_the_proxy(little_proxy) -> None:
    environ = {"http_proxy": f"me:secret-word@127.0.0.1:{little_proxy.port}"}
    async with a_server(greets) as port, open_session(environ) as session:
        little_proxy.hosts[HOST] = port
        async with session.get(f"http://{HOST}/a") as response:
            assert await response.text() == "hello stranger"

    assert little_proxy.asked == [f"GET http://{HOST}/a"]
    assert little_proxy.passwords == ["Basic bWU6c2VjcmV0LXdvcmQ="]


async def test_a_proxy_gets_its_password_and_no_error_tells_it(little_proxy) -> None:
    little_proxy.status = 407
    environ = {"https_proxy": f"http://me:secret-word@127.0.0.1:{little_proxy.port}"}
    async with open_session(environ) as session:
        with pytest.raises(aiohttp.ClientHttpProxyError) as told:
            await session.get(f"https://{HOST}/")

    assert little_proxy.passwords == ["Basic bWU6c2VjcmV0LXdvcmQ="]
    assert "secret-word" not in str(told.value)


@pytest.mark.parametrize("more", [{}, {"NO_PROXY": "localhost"}])
async def test_loopback_is_never_asked_through_a_proxy(little_proxy, more: Mapping[str, str]) -> None:
    async with (
        a_server(greets) as port,
        open_session({"HTTP_PROXY": little_proxy.url, **more}) as session,
        session.get(f"http://127.0.0.1:{port}/") as response,
    ):
        assert await response.text() == "hello stranger"

    assert little_proxy.asked == []


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_session_follows_a_redirect_by_itself(status: int) -> None:
    asked: list[str] = []

    async def points_elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status, headers={"Location": "http://elsewhere.example/in"})

    async with a_server(points_elsewhere) as port, open_session({}) as session:
        for ask in (session.get, session.ws_connect):
            with pytest.raises(RedirectRefused, match=rf"HTTP {status} and points to elsewhere\.example"):
                await ask(f"http://127.0.0.1:{port}/out")
        async with session.get(f"http://127.0.0.1:{port}/seen", allow_redirects=False) as response:
            assert response.status == status

    assert asked == ["/out", "/out", "/seen"]


# Addresses that others name


class Names(AbstractResolver):
    """A resolver with a table; each question takes the next answer of a name, and the last one stays."""

    def __init__(self, **table: list[list[str]]) -> None:
        self.table = {name.replace("_", "."): answers for name, answers in table.items()}

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        if host not in self.table:
            raise OSError(f"no address for {host}")
        answers = self.table[host]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            ResolveResult(hostname=host, host=one, port=port, family=socket.AF_INET, proto=0, flags=0) for one in found
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "[::1]", "[::ffff:127.0.0.1]",
     "[fd00::1]", "[fe80::1]", "localhost", "0x7f.1", "inner.example"],
)  # fmt: skip
async def test_no_address_of_this_machine_or_its_network_is_asked_for_a_public_network(host: str) -> None:
    names = Names(inner_example=[["10.0.0.1", "::1"]], **{"0x7f_1": [["127.0.0.1"]]}, localhost=[["127.0.0.1"]])
    async with open_guarded_session("1.1.1.1", {}, resolver=names) as session:
        for scheme in ("http", "https"):
            with pytest.raises(AddressRefused, match="this machine or its own network"):
                await session.get(f"{scheme}://{host}:9/x")


async def test_the_systems_own_names_are_looked_at_too() -> None:
    async with open_guarded_session("1.1.1.1", {}) as session:
        with pytest.raises(AddressRefused):
            await session.get("http://localhost:9/x")


async def test_a_name_that_resolves_otherwise_the_second_time_gains_nothing() -> None:
    async def fails(request: web.Request) -> web.Response:
        raise AssertionError("it was reached")

    names = Names(images_example=[[PUBLIC], ["127.0.0.1"]])
    async with a_server(fails) as port, open_guarded_session("1.1.1.1", {}, resolver=names) as session:
        timeout = aiohttp.ClientTimeout(sock_connect=0.01)
        with pytest.raises((aiohttp.ServerTimeoutError, aiohttp.ClientConnectorError)):  # at the public address
            await session.get(f"http://images.example:{port}/", timeout=timeout)
        session.connector.clear_dns_cache()  # type: ignore[union-attr]  # as if its time were over
        with pytest.raises(AddressRefused):
            await session.get(f"http://images.example:{port}/", timeout=timeout)


@pytest.mark.parametrize("network", ["127.0.0.1", "192.168.1.5", "grid.lan", "localhost"])
async def test_a_network_that_is_near_itself_may_name_what_is_near(network: str) -> None:
    names = Names(grid_lan=[["192.168.1.5"]], localhost=[["127.0.0.1"]])
    async with a_server(greets) as port, open_guarded_session(network, {}, resolver=names) as session:
        for host in ("127.0.0.1", "localhost"):
            async with session.get(f"http://{host}:{port}/") as response:
                assert await response.text() == "hello stranger"


@pytest.mark.parametrize("network", ["", "nobody.example", "split.example"])
async def test_a_network_whose_host_is_unknown_or_public_too_is_not_near(network: str) -> None:
    names = Names(split_example=[["127.0.0.1", PUBLIC]])
    async with open_guarded_session(network, {}, resolver=names) as session:
        with pytest.raises(AddressRefused):
            await session.get("http://127.0.0.1:9/x")


async def test_behind_a_proxy_only_addresses_that_are_written_out_are_refused(little_proxy, own_authority) -> None:
    server, client = own_authority
    environ = {"HTTPS_PROXY": f"http://localhost:{little_proxy.port}"}
    async with a_server(greets, server) as port, open_guarded_session("1.1.1.1", environ) as session:
        little_proxy.hosts[HOST] = port
        async with session.get(f"https://{HOST}/", ssl=client) as response:  # the proxy's own address is near
            assert await response.text() == "hello stranger"
        for host in ("10.0.0.1", "[::ffff:10.0.0.1]", "localhost"):
            with pytest.raises(AddressRefused):
                await session.get(f"https://{host}:{little_proxy.port}/")

    assert little_proxy.asked == [f"CONNECT {HOST}:443"]


async def test_each_network_has_a_session_of_its_own() -> None:
    async with a_server(greets) as port, GuardedSessions({}) as sessions:
        async with sessions("127.0.0.1").get(f"http://127.0.0.1:{port}/") as response:
            assert response.status == 200
        with pytest.raises(AddressRefused):
            await sessions("1.1.1.1").get(f"http://127.0.0.1:{port}/")
        assert sessions("1.1.1.1") is sessions("1.1.1.1")
    assert sessions("1.1.1.1").closed
