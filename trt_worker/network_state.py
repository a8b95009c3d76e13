"""How it stands with one network: what a transport tells, and status and metrics show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkState:
    """One look at a transport. Jobs are not counted here but in the tally, each of them once."""

    network: str  # "grid" or "horde"
    connections: int  # that it keeps, under as many names
    connected: int  # of them that the network answers now
    busy: int  # jobs that it has under way
    reconnects: int  # since it started
    withdrawn: Mapping[str, str] = field(default_factory=dict)  # models served here and not offered there, and why
    unserved: Mapping[str, str] = field(default_factory=dict)  # recipes of offered models that are not served, and why
    lost: Mapping[str, str] = field(default_factory=dict)  # worker names that are over for good, and why
    notes: Sequence[str] = ()  # what else an operator should see
