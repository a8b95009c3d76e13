"""Names of weights: a library's own, and those of the layout that checkpoints are published in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Change(StrEnum):
    """How a stored tensor differs from the library's parameters, beyond its name."""

    NONE = "none"
    TRANSPOSED = "transposed"  # two axes exchanged: cannot be bound in place
    HALVES_SWAPPED = "halves_swapped"  # the first axis' two halves stand the other way round


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of a table: a stored tensor, and the library's parameters that lie in it one after another.

    Names are patterns: `{}` stands for a number, the same one at the same place of each side. A stored tensor of
    several parameters is their concatenation along the first axis, in this order. Shapes may differ where the bytes
    are the same (a linear layer stored as a 1x1 convolution).

    `stored` has no prefix of the file's layout ("model.diffusion_model."): that is the KeyMap's.
    """

    stored: str
    library: tuple[str, ...]
    change: Change = Change.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMap:
    """The table of one network in one published layout."""

    layout: str  # as people call it: "ldm", "bfl", "comfy", "diffusers"
    prefixes: tuple[str, ...]  # what may stand in front of stored names in a file; the first one found there counts
    entries: tuple[Entry, ...]
