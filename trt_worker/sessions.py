"""How all HTTP and WebSocket sessions are made: through the environment's proxies, to where they were sent and no
further, and, where somebody else names the address, to the Internet only."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import SimpleNamespace, TracebackType

import aiohttp
import msgspec
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from trt_worker.addresses import as_address, is_public
from trt_worker.errors import AnswerTooLarge
from trt_worker.proxies import Proxies, proxies_of


class RedirectRefused(aiohttp.ClientError):
    """A server sent a request elsewhere, which would have taken along what was meant for that server alone."""


class AddressRefused(aiohttp.ClientError):
    """An address that somebody else gave leads to this machine or the network that it stands in."""


def open_session(
    environ: Mapping[str, str] = os.environ, *, connections: int = 100, auto_decompress: bool = True
) -> aiohttp.ClientSession:
    """A session for servers that the operator named.

    Nothing in it follows a redirect by itself: the next hop would get the API key, and might be without TLS.

    Args:
        environ: names the proxies.
        connections: open at once, at most; 0: any number.
    Raises: ConfigError: a proxy in the environment cannot be used.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections),
        auto_decompress=auto_decompress,
        middlewares=(_ThroughProxies(proxies_of(environ)),),
        trace_configs=[_no_redirects()],
    )


def open_guarded_session(
    network: str,
    environ: Mapping[str, str] = os.environ,
    *,
    auto_decompress: bool = True,
    resolver: AbstractResolver | None = None,
) -> aiohttp.ClientSession:
    """A session for addresses that a network gives: its customers' source images, and places for finished ones.

    It connects to public addresses only, whatever a name resolves to, since this machine and its neighbours trust
    requests that come from here. A network on such an address itself may name any: it is the operator's own. Behind a
    proxy names are resolved by the proxy, and only addresses that are written out can be refused.

    Args:
        network: host of the network that gives the addresses.
        environ: names the proxies.
        resolver: of host names; None: the system's.
    Raises: ConfigError: a proxy in the environment cannot be used.
    """
    proxies = proxies_of(environ)
    guard = _Guard(network, proxies, resolver or aiohttp.ThreadedResolver())
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=guard),
        auto_decompress=auto_decompress,
        middlewares=(guard.check, _ThroughProxies(proxies)),
        trace_configs=[_no_redirects()],
    )


def why_unreached(error: BaseException) -> str:
    """Why a server that the operator named gave no usable answer, in a few words and without an address's secrets.

    Not for addresses that a network gives: their errors hold the whole address.
    """
    match error:
        case aiohttp.WSServerHandshakeError():
            return f"no WebSocket there (HTTP {error.status})"
        case aiohttp.ClientConnectorCertificateError():
            return (
                f"{error.host} shows a certificate that this machine does not trust; if its authority is not a public "
                "one, as with Cloudflare's origin certificates, save that authority as a PEM file and name it in "
                "grid_ca_file"
            )
        case aiohttp.ClientHttpProxyError():
            return f"the proxy lets nobody through (HTTP {error.status}); `trt-worker doctor` says which one is used"
        case (
            aiohttp.ClientConnectorError()
            | RedirectRefused()
            | AnswerTooLarge()
            | ValueError()
            | msgspec.MsgspecError()
        ):
            return str(error)
        case TimeoutError():
            return "no answer in time"
        case _:
            return f"no connection ({type(error).__name__})"


class GuardedSessions:
    """A guarded session for each network, opened when it is first asked for; leaving the context closes them."""

    def __init__(self, environ: Mapping[str, str] = os.environ, *, auto_decompress: bool = True) -> None:
        self._environ = environ
        self._auto_decompress = auto_decompress
        self._open: dict[str, aiohttp.ClientSession] = {}

    def __call__(self, network: str) -> aiohttp.ClientSession:
        """The session for addresses that a network gives, by its host."""
        if network not in self._open:
            self._open[network] = open_guarded_session(network, self._environ, auto_decompress=self._auto_decompress)
        return self._open[network]

    async def __aenter__(self) -> GuardedSessions:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with AsyncExitStack() as stack:
            for session in self._open.values():
                stack.push_async_callback(session.close)


class _ThroughProxies:
    """Gives each request the proxy of its host. aiohttp's own way (`trust_env`) would read `~/.netrc` as well."""

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies

    async def __call__(self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        proxy = self._proxies.of(request.url)
        if proxy is not None:
            secret = {} if proxy.authorization is None else {hdrs.PROXY_AUTHORIZATION: proxy.authorization}
            request.update_proxy(proxy.url, None, secret)
            if not request.is_ssl():  # the proxy reads the request itself, not one for a tunnel
                request.headers.update(secret)
        return await send(request)


class _Guard(AbstractResolver):
    """Refuses what is not public, before a request leaves and again when its host's name is resolved.

    The connection goes to the very addresses that were checked, so a name that resolves otherwise the next time gains
    nothing.
    """

    def __init__(self, network: str, proxies: Proxies, resolver: AbstractResolver) -> None:
        self._network = network
        self._proxies = proxies
        self._resolver = resolver

    async def check(self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        """Refuse addresses that are written out, which are never resolved here, and the proxies themselves."""
        host = request.url.host or ""
        address = as_address(host)
        near = self._proxies.is_proxy(host) or (address is not None and not is_public(address))
        if near and not await self._network_is_near():
            raise AddressRefused(_REFUSAL)
        return await send(request)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The public addresses of a name. Raises: AddressRefused: it has none. OSError: it cannot be resolved."""
        found = await self._resolver.resolve(host, port, family)
        if self._proxies.is_proxy(host):
            return found
        public = [one for one in found if _is_public(one)]
        if len(public) == len(found) or await self._network_is_near():
            return found
        if not public:
            raise AddressRefused(_REFUSAL)
        return public

    async def close(self) -> None:
        await self._resolver.close()

    async def _network_is_near(self) -> bool:
        """Whether the network's own host is this machine or one beside it."""
        address = as_address(self._network)
        if address is not None:
            return not is_public(address)
        try:
            found = await self._resolver.resolve(self._network, 0, socket.AF_UNSPEC)
        except OSError:
            return False  # behind a proxy names need not resolve here: a network that does not is not beside us
        return bool(found) and not any(map(_is_public, found))


_REFUSAL = "it leads to this machine or its own network, where nothing is fetched from or sent to for others"


def _is_public(found: ResolveResult) -> bool:
    address = as_address(found["host"])
    return address is not None and is_public(address)


def _no_redirects() -> aiohttp.TraceConfig:
    """What ends a request that aiohttp is about to send after a redirect, a WebSocket's handshake too."""

    async def refuse(
        session: aiohttp.ClientSession, context: SimpleNamespace, redirect: aiohttp.TraceRequestRedirectParams
    ) -> None:
        response = redirect.response
        response.close()
        try:
            host = response.url.join(URL(response.headers.get("Location", ""))).host
        except ValueError:
            host = None
        raise RedirectRefused(
            f"{redirect.url.host} answers HTTP {response.status} and points to {host or 'nowhere'}, which is not "
            "followed: the API key would go along. If the server has moved, name its new address in the configuration"
        )

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(refuse)
    return trace
