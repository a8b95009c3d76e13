"""The cards that engines are for: named on the command line, or those of this machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trt_engines.cards import UnknownCard, card, cards, compute_capability, precisions, unsupported
from trt_engines.errors import EngineError
from trt_engines.rig import DriverFailed, Gpu, listed_gpus


class NoCard(EngineError):
    """No card was named, and this machine does not say that it has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a plan must know of a card."""

    name: str
    sm: int  # compute capability times ten: 86
    memory_bytes: int
    tensor_cores: bool

    @property
    def precisions(self) -> frozenset[str]:
        """Types that engines for it compute in."""
        return precisions(self.sm)

    @property
    def unsupported(self) -> str | None:
        """Why no engine can be built for it, in an operator's words; None: one can."""
        return unsupported(self.sm)


def named_target(text: str) -> Target:
    """The card of a name ("RTX 3060"), or a typical one of a compute capability ("SM86").

    Raises: UnknownCard.
    """
    try:
        known = card(text)
    except UnknownCard:
        return _typical(compute_capability(text))
    return Target(name=known.name, sm=known.sm, memory_bytes=known.memory_bytes, tensor_cores=known.tensor_cores)


def _typical(sm: int) -> Target:
    """A card with the middle memory of those of a compute capability."""
    alike = [one for one in cards() if one.sm == sm]
    if not alike:
        raise UnknownCard(f"no card of SM{sm} is known here; name the card itself")
    return Target(
        name=f"SM{sm}",
        sm=sm,
        memory_bytes=statistics.median_high(one.memory_bytes for one in alike),
        tensor_cores=any(one.tensor_cores for one in alike),
    )


def cards_here() -> tuple[Target, ...]:
    """The NVIDIA cards of this machine; none without a driver.

    Raises: NoCard: the driver does not answer or finds none, with its own words.
    """
    try:
        return tuple(_target(gpu) for gpu in listed_gpus())
    except DriverFailed as exc:
        raise NoCard(f"{exc}; look at the driver, or name a --gpu") from exc


def _target(gpu: Gpu) -> Target:
    known = gpu.card
    tensor_cores = known.tensor_cores if known else gpu.sm >= 75
    return Target(name=gpu.name, sm=gpu.sm, memory_bytes=gpu.memory_bytes, tensor_cores=tensor_cores)


def targets(names: Sequence[str], vram_bytes: int | None = None) -> tuple[Target, ...]:
    """The cards to build for, without repetition.

    Args:
        names: of cards or compute capabilities; those of this machine without any.
        vram_bytes: that engines may use of each, in place of its own memory.

    Raises: UnknownCard, NoCard.
    """
    chosen = tuple(named_target(name) for name in names) if names else cards_here()
    if not chosen:
        raise NoCard(
            'this machine has no NVIDIA card to build for; name the cards, as in --gpu "RTX 3060" or --gpu SM86'
        )
    if vram_bytes is not None:
        chosen = tuple(replace(one, memory_bytes=vram_bytes) for one in chosen)
    return tuple(dict.fromkeys(chosen))
