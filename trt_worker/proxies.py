"""The HTTP proxies that the environment names. Only they are taken from there: no password out of `~/.netrc`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from trt_worker.addresses import as_address, is_loopback
from trt_worker.errors import ConfigError

_SERVED_BY = {"http": "http", "ws": "http", "https": "https", "wss": "https"}
"""Whose proxy a request takes, by its scheme: a WebSocket begins as HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """One proxy."""

    url: URL  # without user and password
    authorization: str | None = field(default=None, repr=False)  # value of Proxy-Authorization, a secret
    variable: str  # of the environment, that names it


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """Which proxy a request takes."""

    http: Proxy | None = None
    https: Proxy | None = None
    exempt: tuple[str, ...] = ()  # entries of NO_PROXY, in lower case

    def of(self, url: URL) -> Proxy | None:
        """The proxy for a request. None: it goes straight to its host, as all do that stay on this machine."""
        host = (url.host or "").lower().rstrip(".")
        if is_loopback(host) or any(_matches(entry, host, url.port) for entry in self.exempt):
            return None
        return self.https if _SERVED_BY.get(url.scheme) == "https" else self.http

    def is_proxy(self, host: str) -> bool:
        """Whether a host is one of these proxies."""
        return any(proxy is not None and proxy.url.host == host for proxy in (self.http, self.https))


def proxies_of(environ: Mapping[str, str]) -> Proxies:
    """The proxies of HTTP_PROXY, HTTPS_PROXY, ALL_PROXY (for what has none of its own) and NO_PROXY.

    As with other programs, the name in small letters comes first, and an empty value means none.

    Raises: ConfigError: one of them is no address of an HTTP proxy.
    """
    _, listed = _variable(environ, "no_proxy")
    exempt = tuple(listed.lower().replace(",", " ").split())
    if "*" in exempt:
        return Proxies()
    return Proxies(http=_proxy(environ, "http_proxy"), https=_proxy(environ, "https_proxy"), exempt=exempt)


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    used = name if name in environ else name.upper()
    return used, environ.get(used, "").strip()


def _proxy(environ: Mapping[str, str], name: str) -> Proxy | None:
    variable, value = _variable(environ, name)
    if not value and not (name in environ or name.upper() in environ):
        variable, value = _variable(environ, "all_proxy")
    if not value:
        return None
    remedy = f"set {name.upper()} to http://host:port, or NO_PROXY to * to go without a proxy"
    try:
        url = URL(value if "://" in value else f"http://{value}")
        usable = url.scheme in {"http", "https"} and bool(url.host)
    except ValueError as error:  # its text may hold the password
        raise ConfigError(f"{variable} in the environment is no address; {remedy}") from error
    if not usable:
        raise ConfigError(f"{variable} in the environment names a proxy that does not speak HTTP; {remedy}")
    authorization = None if url.user is None else aiohttp.encode_basic_auth(url.user, url.password or "")
    return Proxy(url=url.origin(), authorization=authorization, variable=variable)


def _matches(entry: str, host: str, port: int | None) -> bool:
    """Whether an entry of NO_PROXY is for a host: its name, a domain above it, its address, or a network of it."""
    address = as_address(host)
    try:
        if address is not None and "/" in entry:
            return address in ip_network(entry, strict=False)
        if (named := as_address(entry)) is not None:
            return named == address
        parts = urlsplit(f"//{entry}")
        if parts.port not in {None, port}:
            return False
    except ValueError:
        return False  # what cannot be read is for no host
    name = (parts.hostname or "").removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))
