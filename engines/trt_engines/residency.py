"""Which engines stay in a device's memory: a pure decision, made before anything is allocated.

Weights of resident engines add up, and so do the bound tensors of all their buckets. Activation memory adds up over
lanes only: calls of one lane, a stream, run in turn, so that one block, as large as the greediest of them needs, serves
all of its networks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from operator import attrgetter
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Memory(StrEnum):
    """Whose memory networks fill: each has a budget of its own."""

    CARD = "card"
    MACHINE = "machine"


STREAMED_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the weights that can be streamed: how many of them are left in host memory, tried in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Memory that one bucket of a network takes on the device, in bytes."""

    weights: int  # as long as it is resident
    activations: int = 0  # while it runs
    tensors: int = 0  # bound inputs and outputs, as long as it is resident
    streamable: int = 0  # of the weights, those that may stay in host memory instead, at a price in every call
    engine: str = ""  # buckets with the same engine have its weights in common
    lane: Hashable = None  # where its calls run, one after another; lanes run side by side

    def streaming(self, size: int) -> Footprint:
        """The same with so many bytes of its weights in host memory, 0 <= size <= streamable."""
        return replace(self, weights=self.weights - size, streamable=self.streamable - size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a network takes, all of its buckets together, in bytes."""

    held: int  # weights and bound tensors
    activations: Mapping[Hashable, int] = field(default_factory=dict)  # of its greediest bucket in each lane


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident(Generic[Key]):
    """A network that is in memory."""

    key: Key
    taken: Taken
    last_used: float  # time.monotonic() seconds
    in_use: bool  # rows are under way in it: it cannot leave


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Generic[Key]):
    """What is to happen before something is allocated."""

    option: int  # index of the way that fits
    leave: tuple[Key, ...]  # networks to close first, least recently used first


def taken(buckets: Iterable[Footprint]) -> Taken:
    """What buckets of one network take together: the weights of each engine once, the tensors of every bucket."""
    weights: dict[str, int] = {}
    activations: dict[Hashable, int] = {}
    tensors = 0
    for one in buckets:
        weights[one.engine] = max(weights.get(one.engine, 0), one.weights)
        tensors += one.tensors
        activations[one.lane] = max(activations.get(one.lane, 0), one.activations)
    return Taken(held=sum(weights.values()) + tensors, activations=activations)


def needed(networks: Iterable[Taken]) -> int:
    """Bytes that networks take together: all that they hold, and in each lane the largest activations once."""
    held, blocks = 0, dict[Hashable, int]()
    for network in networks:
        held += network.held
        for lane, activations in network.activations.items():
            blocks[lane] = max(blocks.get(lane, 0), activations)
    return held + sum(blocks.values())


def beside(loaded: Iterable[Footprint], bucket: Footprint) -> Footprint:
    """A further bucket of a network: where its engine is loaded already, with the weights as they are there."""
    for one in loaded:
        if one.engine == bucket.engine:
            return replace(bucket, weights=one.weights, streamable=0)
    return bucket


def ways(footprints: Sequence[Footprint]) -> Iterator[tuple[int, int]]:
    """How one of some buckets can be loaded, the preferred way first: a bucket whole, then with more and more of its
    weights streamed, then the next bucket.

    Yields: the bucket's index, and the bytes of its weights that stay in host memory.
    """
    for index, footprint in enumerate(footprints):
        yield index, 0
        if footprint.streamable:
            for share in STREAMED_SHARES:
                yield index, int(share * footprint.streamable)


def make_room(options: Sequence[Taken], residents: Sequence[Resident[Key]], budget: int) -> Choice[Key] | None:
    """How a network finds room: in the first way that fits, closing no more of the others than that takes.

    Args:
        options: what it takes in each way that it can be loaded, the preferred one first.
        residents: networks in memory, without the one that is wanted.
        budget: bytes of the device that networks may take.
    Returns: None: it does not fit in any way beside the networks that are in use.
    """
    idle = sorted((one for one in residents if not one.in_use), key=attrgetter("last_used"))
    for index, option in enumerate(options):
        stay = [one.taken for one in residents if one.in_use] + [option]
        if needed(stay) > budget:
            continue
        # The most recently used stay first; an older one stays when it still fits beside them.
        leave = []
        for one in reversed(idle):
            if needed([*stay, one.taken]) <= budget:
                stay.append(one.taken)
            else:
                leave.append(one.key)
        return Choice(option=index, leave=tuple(reversed(leave)))
    return None
