"""Weighted text to the rows of tokens that a text encoder of fixed rows, such as CLIP, takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trt_worker.condition.weights import Piece

FRAME = 2
"""Tokens of a chunk that are no text: its start and its end."""

LONG_STRETCH = 8
"""A stretch of this many tokens or more is cut at the end of a chunk; a shorter one moves to the next as a whole."""

EMBEDDING = "embedding:"
"""How a prompt names a textual inversion, at its very start or after a space or a line break."""

_BEFORE_EMBEDDING = re.compile(rf"[ \n](?={EMBEDDING})")


class Tokenizer(Protocol):
    """What chunking needs of a tokenizer."""

    start: int
    end: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without start and end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """A prompt as the text encoder takes it; each chunk is encoded by itself."""

    ids: NDArray[np.int64]  # [chunks, size]
    weights: NDArray[np.float32]  # [chunks, size]; 1 for start, end and padding
    notes: tuple[str, ...]  # what of the prompt was left out, in an operator's words

    @property
    def weighted(self) -> bool:
        """Whether any position has a weight other than 1."""
        return bool((self.weights != 1).any())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """Tokens that stay together where they can: all of one weight, up to the next textual inversion."""

    ids: Sequence[int]
    weight: float


def chunk(pieces: Iterable[Piece], tokenizer: Tokenizer, *, size: int, pad: int, most: int) -> Chunks:
    """Pack weighted text into chunks: start, text (of CLIP's 77 tokens up to 75), end, padding.

    A piece of one weight is one stretch, however many words it has; only a textual inversion ends it early.

    Args:
        size: tokens of a chunk, more than 2.
        pad: token that fills a chunk up behind its end.
        most: chunks that are kept; what does not fit is left out with a note.
    Source: the packing rules of ComfyUI's CLIP tokenizer since December 2024, which the networks' other workers run.
    """
    texts, weights, notes = _texts(pieces)
    encoded = zip(tokenizer.encode(texts), weights, strict=True)
    room = size - FRAME
    rows = _pack((_Stretch(ids=ids, weight=weight) for ids, weight in encoded), room)
    if len(rows) > most:
        notes.append(f"prompt cut: it makes {len(rows)} chunks of {room} tokens, at most {most} are used")
        del rows[most:]
    ids_out = np.full((len(rows), size), pad, np.int64)
    weights_out = np.ones((len(rows), size), np.float32)
    ids_out[:, 0] = tokenizer.start
    for number, row in enumerate(rows):
        end = 1 + len(row.ids)
        ids_out[number, 1:end] = row.ids
        ids_out[number, end] = tokenizer.end
        weights_out[number, 1:end] = row.weights
    return Chunks(ids=ids_out, weights=weights_out, notes=tuple(notes))


def _texts(pieces: Iterable[Piece]) -> tuple[list[str], list[float], list[str]]:
    """Text of each stretch and its weight, textual inversions taken out, and a note for each of those."""
    texts: list[str] = []
    weights: list[float] = []
    dropped: dict[str, None] = {}
    for piece in pieces:
        for text in _BEFORE_EMBEDDING.split(piece.text):
            if text.startswith(EMBEDDING):
                name, text = _name_and_rest(text.removeprefix(EMBEDDING))
                dropped[name] = None
            texts.append(text)
            weights.append(piece.weight)
    notes = [f"textual inversion {name[:80]!r} left out: this worker has none" for name in dropped]
    return texts, weights, notes


def _name_and_rest(text: str) -> tuple[str, str]:
    """The name of a textual inversion and what of the stretch stays without it: its commas and the words behind."""
    name, *rest = text.split() or [""]
    bare = name.strip(",")  # what stays is counted from the front, as ComfyUI counts it
    return bare, " ".join([name[len(bare) :], *rest])


@dataclass(slots=True)
class _Row:
    most: int  # tokens of text
    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    @property
    def room(self) -> int:
        return self.most - len(self.ids)

    def add(self, ids: Sequence[int], weight: float) -> None:
        self.ids.extend(ids)
        self.weights.extend([weight] * len(ids))


def _pack(stretches: Iterable[_Stretch], room: int) -> list[_Row]:
    rows = [_Row(room)]
    for stretch in stretches:
        left = stretch.ids
        while len(left) > rows[-1].room:
            taken = rows[-1].room if len(stretch.ids) >= LONG_STRETCH else 0
            rows[-1].add(left[:taken], stretch.weight)
            left = left[taken:]
            rows.append(_Row(room))
        rows[-1].add(left, stretch.weight)
    return rows
