"""Which of the models at hand are offered: names and meta instructions against what lies on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Protocol

from trt_engines.architectures.feed import Feed
from trt_engines.architectures.registry import ARCHITECTURES, known_as

META = re.compile(r"(?P<what>all|top|bottom)(?:\s+(?P<which>\w+))??(?:\s+models?)?", re.IGNORECASE)
"""`ALL`, `ALL SDXL`, `TOP 5`, `BOTTOM 2`, each with an optional `MODEL` or `MODELS`. Matched over the whole text:
older workers did not, so that a model called `All in one` was an instruction."""

BASELINE = re.compile(r"baseline\s*:\s*(?P<which>\S.*)", re.IGNORECASE)
"""`baseline: stable_diffusion_xl`: the same as `ALL stable_diffusion_xl`."""

SHORT = {"sd15": "stable_diffusion_1", "sd21": "stable_diffusion_2", "flux": "flux_1"}
"""What instructions call architectures; all else is an architecture's own name, or what a network calls it."""

UNKNOWABLE = frozenset({"sfw", "nsfw"})
"""Groups of the Horde's model list about which a model on disk says nothing."""


class HasArchitecture(Protocol):
    """What is asked of a model."""

    @property
    def architecture(self) -> str: ...


def resolve_models(
    load: Sequence[str],
    skip: Sequence[str],
    available: Mapping[str, HasArchitecture],
    popular: Sequence[str] = (),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the models to offer, and what could not be resolved.

    Args:
        load, skip: names, in any case, and instructions (`META`). A model in both is skipped, and not made up for by
            the next one.
        available: the models on disk by name, in the order that stands in for popularity.
        popular: names by how much they are asked for, most first; empty: not known, as without a network.
    Returns: names from `available`, each once, in the order in which `load` asks for them; and notes for the log.
    """
    notes: list[str] = []
    wanted = _all_of(load, "models_to_load", available, popular, notes)
    unwanted = set(_all_of(skip, "models_to_skip", available, popular, notes))
    names = tuple(name for name in wanted if name not in unwanted)
    if not names:
        at_hand = ", ".join(available) if available else "none"
        notes.append(f"No model is left to offer. Models at hand: {at_hand}")
    return names, tuple(dict.fromkeys(notes))


def _all_of(
    entries: Sequence[str],
    key: str,
    available: Mapping[str, HasArchitecture],
    popular: Sequence[str],
    notes: list[str],
) -> list[str]:
    found = dict.fromkeys(name for entry in entries for name in _one(entry.strip(), key, available, popular, notes))
    return list(found)


def _one(
    entry: str, key: str, available: Mapping[str, HasArchitecture], popular: Sequence[str], notes: list[str]
) -> Sequence[str]:
    if entry in available:
        return [entry]
    if (baseline := BASELINE.fullmatch(entry)) is not None:
        return _of_architectures(entry, baseline["which"], key, available, notes)
    instruction = META.fullmatch(entry)
    if instruction is not None:
        return _meta(entry, instruction, key, available, popular, notes)
    named = [name for name in available if name.casefold() == entry.casefold()]
    if len(named) == 1:
        return named
    close = get_close_matches(entry, available, n=1)
    suggestion = f"; the closest is {close[0]!r}" if close else ""
    if key == "models_to_load":  # what is to be skipped may well be absent
        notes.append(f"{key}: there is no model {entry!r} at hand, so it is not offered{suggestion}")
    return []


def _meta(
    entry: str,
    instruction: re.Match[str],
    key: str,
    available: Mapping[str, HasArchitecture],
    popular: Sequence[str],
    notes: list[str],
) -> Sequence[str]:
    what, which = instruction["what"].lower(), (instruction["which"] or "").lower()
    if what == "all":
        if not which:
            return list(available)
        if which in UNKNOWABLE:
            notes.append(
                f"{key}: {entry!r} cannot be resolved, since models on disk do not say whether they are {which}"
            )
            return []
        return _of_architectures(entry, which, key, available, notes)
    if not which.isdecimal() or len(which) > 6:
        notes.append(f"{key}: {entry!r} is not understood; write for example TOP 3")
        return []
    if popular:
        ranked = [name for name in popular if name in available]
        ranked += [name for name in available if name not in set(ranked)]
    else:
        ranked = list(available)
        notes.append(f"{key}: {entry!r} goes by the order on disk, since it is not known what is asked for")
    if what == "bottom":
        ranked.reverse()
    return ranked[: int(which)]


def _of_architectures(
    entry: str, which: str, key: str, available: Mapping[str, HasArchitecture], notes: list[str]
) -> Sequence[str]:
    meant = architectures(which)
    names = [name for name, model in available.items() if model.architecture in meant]
    if not meant:
        notes.append(
            f"{key}: {entry!r} names no architecture; known are {', '.join(one.name for one in ARCHITECTURES)}"
        )
    elif not names:
        notes.append(f"{key}: {entry!r} matches no model at hand")
    return names


def architectures(word: str) -> frozenset[str]:
    """The names of the architectures that operators and networks call by a word, in any case; none: nobody does."""
    plain = word.strip().lower()
    if plain == "inpainting":
        fed = {one.name: {tensor.feed for net in one.denoisers for tensor in net.inputs} for one in ARCHITECTURES}
        return frozenset(name for name, feeds in fed.items() if Feed.MASK in feeds)
    words = (SHORT.get(plain, plain), plain.replace(" ", "_").replace("-", "_"))
    return frozenset(one.name for spelt in words for one in known_as(spelt))
