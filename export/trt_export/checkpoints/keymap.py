"""Names of weights: a library's own, and those of the layout that checkpoints are published in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache


class Change(StrEnum):
    """How a stored tensor differs from the library's parameters, beyond its name."""

    NONE = "none"
    TRANSPOSED = "transposed"  # two axes exchanged: cannot be bound in place
    HALVES_SWAPPED = "halves_swapped"  # the first axis' two halves stand the other way round
    FLATTENED = "flattened"  # all axes as one


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
    unused: tuple[str, ...] = ()  # stored names, patterns too, that files have beside and no parameter needs
    tied: tuple[tuple[str, ...], ...] = ()  # parameters that are one: a file has the tensor of any of them, or of all
    beside: tuple[str, ...] = ()  # beginnings of stored names of another part of the model, such as T5's decoder
    whole: bool = True  # False: of what the table names, the network may be a part: one half, or the first layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A stored tensor by its full name (no prefix), and the parameters in it; `position` is the one looked for."""

    entry: Entry
    stored: str
    library: tuple[str, ...]
    position: int = 0


def diffusers(names: Iterable[str], prefixes: tuple[str, ...] = ("",)) -> KeyMap:
    """The table of a library's own layout: every parameter under its own name."""
    return KeyMap(
        layout="diffusers", prefixes=prefixes, entries=tuple(Entry(stored=name, library=(name,)) for name in names)
    )


def match(pattern: str, name: str) -> tuple[str, ...] | None:
    """The numbers that make `pattern` into `name`, in order; None: nothing does."""
    found = _expression(pattern).fullmatch(name)
    return found.groups() if found else None


def expand(pattern: str, numbers: Sequence[str]) -> str:
    """`pattern` with its placeholders filled in order.

    Raises: ValueError: there are more or fewer numbers than placeholders.
    """
    parts = pattern.split(_PLACE)
    if len(parts) != len(numbers) + 1:
        raise ValueError(
            f"the pattern {pattern!r} has {len(parts) - 1} placeholders and is given {len(numbers)} numbers"
        )
    return parts[0] + "".join(number + part for number, part in zip(numbers, parts[1:], strict=True))


class Lookup:
    """A key map made ready for questions in both directions.

    Raises: ValueError: the table is at fault (see `faults`).
    """

    def __init__(self, table: KeyMap) -> None:
        if found := faults(table):
            raise ValueError(f"the {table.layout} key map is at fault: {'; '.join(found)}")
        self.table = table
        self._stored: dict[str, list[Entry]] = {}
        self._library: dict[str, list[tuple[Entry, int]]] = {}
        self._unused: dict[str, list[str]] = {}
        for entry in table.entries:
            self._stored.setdefault(_skeleton(entry.stored), []).append(entry)
            for position, name in enumerate(entry.library):
                self._library.setdefault(_skeleton(name), []).append((entry, position))
        for pattern in table.unused:
            self._unused.setdefault(_skeleton(pattern), []).append(pattern)

    def by_stored(self, name: str) -> Place | None:
        """What lies in the stored tensor `name` (without its prefix); None: the table does not know it."""
        for entry in self._stored.get(_skeleton(name), ()):
            if (numbers := match(entry.stored, name)) is not None:
                return _place(entry, numbers, 0)
        return None

    def by_library(self, name: str) -> Place | None:
        """Where the library's parameter `name` lies; None: the table does not know it."""
        for entry, position in self._library.get(_skeleton(name), ()):
            if (numbers := match(entry.library[position], name)) is not None:
                return _place(entry, numbers, position)
        return None

    def places(self, name: str) -> tuple[Place, ...]:
        """Where the library's parameter `name` may lie: in its own tensor, or in that of a parameter it is tied to."""
        tied = (other for group in self.table.tied if name in group for other in group if other != name)
        found = (self.by_library(other) for other in tied)
        elsewhere = (replace(place, library=(name,)) for place in found if place)
        own = self.by_library(name)
        return (*([own] if own else []), *elsewhere)

    def is_unused(self, name: str) -> bool:
        """Whether the stored tensor `name` is one that no parameter needs."""
        return name.startswith(self.table.beside) or any(
            match(pattern, name) is not None for pattern in self._unused.get(_skeleton(name), ())
        )

    def prefix(self, keys: Iterable[str]) -> str | None:
        """The first of the table's prefixes under which `keys` has a tensor of the table; None: none has."""
        held = tuple(keys)
        for prefix in self.table.prefixes:
            size = len(prefix)
            if any(key.startswith(prefix) and self.by_stored(key[size:]) is not None for key in held):
                return prefix
        return None


@lru_cache(maxsize=256)
def lookup(table: KeyMap) -> Lookup:
    """The lookup of a table, made once. Raises: as Lookup."""
    return Lookup(table)


def faults(table: KeyMap) -> tuple[str, ...]:
    """What is wrong with a table, one sentence each: placeholders that do not agree, and ambiguous names.

    A name is ambiguous when two rows could mean it: a stored tensor that would be read in two ways, or a parameter
    that would be found in two places.
    """
    found: list[str] = []
    if not table.prefixes:
        found.append("it has no prefixes (one without any has the prefix '')")
    for entry in table.entries:
        counts = {pattern.count(_PLACE) for pattern in (entry.stored, *entry.library)}
        if len(counts) > 1 or not entry.library:
            found.append(f"{entry.stored!r} and its parameters {entry.library} differ in their placeholders")
        if entry.change is not Change.NONE and len(entry.library) > 1:
            found.append(f"{entry.stored!r} holds several parameters and is changed as well")
        found += [
            f"{p!r} has digits beside a placeholder" for p in (entry.stored, *entry.library) if _TOUCHING.search(p)
        ]
    tied = {name for group in table.tied for name in group}
    found += [
        f"{entry.stored!r} holds a tied parameter and others, or changes it"
        for entry in table.entries
        if tied.intersection(entry.library) and (len(entry.library) > 1 or entry.change is not Change.NONE)
    ]
    stored = [entry.stored for entry in table.entries] + list(table.unused)
    library = [name for entry in table.entries for name in entry.library]
    return (*found, *_overlaps("stored name", stored), *_overlaps("parameter", library))


_PLACE = "{}"
_NUMBER = re.compile(r"\d+|\{\}", re.ASCII)
_TOUCHING = re.compile(r"\d\{\}|\{\}\d|\{\}\{\}", re.ASCII)


@lru_cache(maxsize=65536)
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(r"(0|[1-9]\d*)".join(re.escape(part) for part in pattern.split(_PLACE)), re.ASCII)


def _skeleton(name: str) -> str:
    """A name without its numbers: equal for every pattern and name that may match."""
    return _NUMBER.sub(_PLACE, name)


def _place(entry: Entry, numbers: Sequence[str], position: int) -> Place:
    return Place(
        entry=entry,
        stored=expand(entry.stored, numbers),
        library=tuple(expand(pattern, numbers) for pattern in entry.library),
        position=position,
    )


def _overlaps(what: str, patterns: Sequence[str]) -> Iterator[str]:
    """Pairs of patterns that one name could match."""
    alike: dict[str, list[tuple[str, list[str]]]] = {}
    for pattern in patterns:
        numbers = _NUMBER.findall(pattern)
        others = alike.setdefault(_skeleton(pattern), [])
        yield from (
            f"the {what} {pattern!r} also matches {other!r}" for other, theirs in others if _overlap(numbers, theirs)
        )
        others.append((pattern, numbers))


def _overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two patterns of one skeleton, by their numbers and placeholders, have a name in common."""
    return all(a == b or _PLACE in (a, b) for a, b in zip(one, other, strict=True))
