"""Which proxy a request takes, by the environment."""

from __future__ import annotations

import pytest
from yarl import URL

from trt_worker.errors import ConfigError
from trt_worker.proxies import Proxies, proxies_of

ENVIRON = {"HTTP_PROXY": "http://plain:1", "HTTPS_PROXY": "http://secure:2"}


def taken(environ: dict[str, str], url: str) -> str | None:
    proxy = proxies_of(environ).of(URL(url))
    return None if proxy is None else f"{proxy.url} {proxy.variable}"


@pytest.mark.parametrize(
    ("environ", "url", "shown"),
    [
        (ENVIRON, "http://grid.example", "http://plain:1 HTTP_PROXY"),
        (ENVIRON, "https://grid.example", "http://secure:2 HTTPS_PROXY"),
        (ENVIRON, "wss://grid.example", "http://secure:2 HTTPS_PROXY"),
        (ENVIRON | {"https_proxy": "first:3"}, "wss://grid.example", "http://first:3 https_proxy"),
        (ENVIRON | {"https_proxy": ""}, "wss://grid.example", None),
        ({"ALL_PROXY": "http://all:4"}, "wss://grid.example", "http://all:4 ALL_PROXY"),
        (ENVIRON | {"all_proxy": "socks5://all:4"}, "wss://grid.example", "http://secure:2 HTTPS_PROXY"),
        ({"HTTPS_PROXY": "http://rig:word@secure:2"}, "https://grid.example", "http://secure:2 HTTPS_PROXY"),
        ({}, "https://grid.example", None),
    ],
)
def test_a_request_takes_the_proxy_of_its_scheme(environ: dict[str, str], url: str, shown: str | None) -> None:
    assert taken(environ, url) == shown


@pytest.mark.parametrize("url", ["http://localhost:7001", "https://127.0.0.1", "ws://[::1]:9/v1", "https://127.8.8.8"])
def test_what_stays_on_this_machine_takes_none(url: str) -> None:
    assert taken(ENVIRON, url) is None


@pytest.mark.parametrize(
    ("listed", "url", "direct"),
    [
        ("*", "https://grid.example", True),
        ("other,grid.example", "https://grid.example", True),
        ("GRID.example", "https://ws.grid.example", True),
        (".grid.example", "https://ws.grid.example", True),
        ("*.grid.example", "https://ws.grid.example", True),
        ("rid.example", "https://grid.example", False),
        ("grid.example:8443", "https://grid.example:8443", True),
        ("grid.example:8443", "https://grid.example", False),
        ("grid.example", "https://grid.example.", True),
        ("10.0.0.0/8 192.168.1.5", "https://10.9.8.7", True),
        ("10.0.0.0/8 192.168.1.5", "https://192.168.1.5", True),
        ("10.0.0.0/8 192.168.1.5", "https://192.168.1.6", False),
        ("fd00::/8", "https://[fd00::1]", True),
        ("[fd00::1]:8443", "https://[fd00::1]:8443", True),
        ("fd00::1", "https://[fd00::1]", True),
        ("10.0.0.0/99,,", "https://10.0.0.1", False),
    ],
)
def test_no_proxy_is_obeyed(listed: str, url: str, direct: bool) -> None:
    assert (taken(ENVIRON | {"NO_PROXY": listed}, url) is None) is direct


@pytest.mark.parametrize("value", ["socks5://user:pass-word@host:1080", "http://", "http://user:pass-word@[::1"])
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(value: str) -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as told:
        proxies_of({"HTTPS_PROXY": value})

    assert "pass-word" not in str(told.value)


def test_no_proxy_at_all_leaves_the_others_unread() -> None:
    assert proxies_of({"HTTPS_PROXY": "socks5://host:1080", "NO_PROXY": "*"}) == Proxies()
