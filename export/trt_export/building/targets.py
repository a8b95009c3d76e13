"""The cards that engines are for: named on the command line, or those of this machine."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trt_engines.cards import UnknownCard, card, cards, compute_capability, precisions, unsupported
from trt_engines.errors import EngineError

MIB = 2**20

QUERY = ("name", "compute_cap", "memory.total")
"""What nvidia-smi is asked; memory comes in MiB."""


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
    """The NVIDIA cards of this machine, as their driver's nvidia-smi lists them; none without a driver.

    Raises: NoCard: the driver does not answer, with its own words.
    """
    query = shutil.which("nvidia-smi")
    if query is None:
        return ()
    command = [query, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired as exc:
        raise NoCard(f"nvidia-smi gave no answer in {exc.timeout:.0f} s; look at the driver, or name a --gpu") from exc
    if answer.returncode:
        said = " ".join((answer.stdout + answer.stderr).split())
        raise NoCard(f"nvidia-smi failed ({said}); look at the driver, or name a --gpu")
    return listed(answer.stdout)


def listed(text: str) -> tuple[Target, ...]:
    """The cards of nvidia-smi's answer to QUERY, one a line. Raises: NoCard: it is not one."""
    found = []
    for line in text.strip().splitlines():
        try:
            name, capability, memory = (field.strip() for field in line.rsplit(",", 2))
            sm, memory_bytes = round(float(capability) * 10), int(memory) * MIB
        except ValueError as exc:
            raise NoCard(f"nvidia-smi describes a card as {line!r}, which is not understood; name a --gpu") from exc
        try:
            tensor_cores = card(name).tensor_cores
        except UnknownCard:
            tensor_cores = sm >= 75
        found.append(Target(name=name, sm=sm, memory_bytes=memory_bytes, tensor_cores=tensor_cores))
    return tuple(found)


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
