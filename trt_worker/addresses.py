"""Which addresses stay on this machine, and which are the Internet's."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""What IANA gives out of IPv6 (RFC 4291, 2.4); nothing else is routed on the Internet."""

_NAT64 = IPv6Network("64:ff9b::/96")
"""Stands for IPv4 addresses on networks that have IPv6 alone (RFC 6052)."""


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own: only there may keys and images travel in the clear."""
    if host == "localhost":
        return True
    address = as_address(host)
    return address is not None and address.is_loopback


def as_address(host: str) -> IPv4Address | IPv6Address | None:
    """A host as an IP address; None: it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the Internet's.

    Loopback, private (RFC 1918, RFC 4193), shared (100.64.0.0/10, RFC 6598), link-local, unspecified, documentation,
    reserved and multicast addresses are not; nor is an IPv6 address that stands for such an IPv4 address (mapped,
    6to4, NAT64).
    """
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        return address in _GLOBAL_UNICAST and address.is_global
    return address.is_global and not address.is_multicast and not address.is_reserved
