"""What the server would refuse, or silently ignore, is refused before it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trt_worker import __version__
from trt_worker.errors import ConfigError
from trt_worker.intake.horde.settings import HordeSettings


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"url": "aihorde.net/api"}, "url"),
        ({"url": "http://192.168.1.5/api"}, "unencrypted"),
        ({"api_key": " "}, "API key"),
        ({"worker_name": ""}, "worker name"),
        ({"worker_name": "x" * 101}, "101 characters"),  # crashes the server
        ({"max_batch": 0}, "max_batch"),
        ({"max_batch": 21}, "max_batch"),
        ({"threads": 51}, "threads"),
        ({"max_power": 0}, "max_power"),
        ({"open_pops": 0}, "open_pops"),
        ({"priority_usernames": ("me",)}, "name#number"),
        ({"wallet_address": "0x123"}, "wallet_address"),
    ],
)
def test_values_out_of_range_are_refused_by_name(
    a_settings: Callable[..., HordeSettings], fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        a_settings(**fields)


def test_the_key_is_not_shown(a_settings: Callable[..., HordeSettings]) -> None:
    assert "a-secret-key" not in repr(a_settings())


@pytest.mark.parametrize(
    "url", ["https://h.example/api", "https://h.example/api/", "https://h.example/api/v2", "https://h.example/api/v2/"]
)
def test_the_address_may_be_written_with_or_without_its_version(
    a_settings: Callable[..., HordeSettings], url: str
) -> None:
    assert a_settings(url=url).base_url == "https://h.example/api/v2"


def test_the_worker_says_honestly_what_it_is(a_settings: Callable[..., HordeSettings]) -> None:
    name, version, url = a_settings().bridge_agent.split(":", 2)

    assert (name, version) == ("trt-worker", __version__)
    assert url.startswith("https://")
