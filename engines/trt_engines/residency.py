"""Which engines stay in a device's memory: a pure decision, made before anything is allocated.

Weights of resident engines add up. Activation memory does not: contexts of one device run in turn, so one block, as
large as the worst of them needs, serves all.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Memory that an engine takes, in bytes."""

    weights: int  # as long as it is resident
    activations: int = 0  # while it runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident(Generic[Key]):
    """An engine that is in memory."""

    key: Key
    footprint: Footprint
    last_used: float  # time.monotonic() seconds
    in_use: bool  # rows are under way in it: it cannot leave


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Generic[Key]):
    """What is to happen before an engine is loaded."""

    option: int  # index of the footprint that fits
    leave: tuple[Key, ...]  # engines to close first, least recently used first


def needed(footprints: Sequence[Footprint]) -> int:
    """Bytes that engines take together: all weights, and the largest activations once."""
    return sum(one.weights for one in footprints) + max((one.activations for one in footprints), default=0)


def make_room(options: Sequence[Footprint], residents: Sequence[Resident[Key]], budget: int) -> Choice[Key] | None:
    """How an engine finds room: in the first way that fits, closing no more engines than that takes.

    Args:
        options: ways to load it, the preferred one first: whole, then with streamed weights, then for fewer rows.
        residents: engines in memory, without the one that is wanted.
        budget: bytes of the device that engines may take.
    Returns: None: it does not fit in any way beside the engines that are in use.
    """
    idle = sorted((one for one in residents if not one.in_use), key=attrgetter("last_used"))
    for index, option in enumerate(options):
        stay = [one.footprint for one in residents if one.in_use] + [option]
        if needed(stay) > budget:
            continue
        # The most recently used stay first; an older one stays when it still fits beside them.
        leave = []
        for one in reversed(idle):
            if needed([*stay, one.footprint]) <= budget:
                stay.append(one.footprint)
            else:
                leave.append(one.key)
        return Choice(option=index, leave=tuple(reversed(leave)))
    return None
