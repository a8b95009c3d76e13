"""Which addresses are this machine's, which are the Internet's."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from trt_worker.addresses import is_loopback, is_public


@pytest.mark.parametrize("address", ["1.1.1.1", "172.15.0.1", "100.63.0.1", "2606:4700::1111", "64:ff9b::101:101"])
def test_what_anybody_can_reach_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "198.18.0.1", "192.0.2.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "4000::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1",
    ],
)  # fmt: skip
def test_what_stays_near_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    ("host", "own"),
    [("localhost", True), ("127.0.0.2", True), ("::1", True), ("localhost.example", False), ("10.0.0.1", False)],
)
def test_keys_travel_in_the_clear_only_to_this_machine(host: str, own: bool) -> None:
    assert is_loopback(host) is own
