"""Weighted text to the rows of tokens that a CLIP text encoder takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trt_engines.interface import CLIP_TOKENS
from trt_worker.condition.weights import Piece

CHUNK_TEXT = CLIP_TOKENS - 2
"""Tokens of text in a chunk, between start and end."""

LONG_WORD = 8
"""A word of this many tokens or more may be cut at the end of a chunk; a shorter one moves to the next as a whole."""

EMBEDDING = "embedding:"
"""How a prompt names a textual inversion."""

_NO_IDS: tuple[int, ...] = ()


class Tokenizer(Protocol):
    """What chunking needs of a tokenizer."""

    start: int
    end: int

    def encode(self, words: Sequence[str]) -> list[list[int]]:
        """Token ids of each word, without start and end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """A prompt as the text encoder takes it; each chunk is encoded by itself."""

    ids: NDArray[np.int64]  # [chunks, 77]
    weights: NDArray[np.float32]  # [chunks, 77]; 1 for start, end and padding
    notes: tuple[str, ...]  # what of the prompt was left out, in an operator's words

    @property
    def weighted(self) -> bool:
        """Whether any position has a weight other than 1."""
        return bool((self.weights != 1).any())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    ids: Sequence[int]
    weight: float


def chunk(pieces: Iterable[Piece], tokenizer: Tokenizer, *, most: int) -> Chunks:
    """Pack weighted text into chunks of 77 tokens: start, up to 75 of text, end, padding (the end token again).

    Args:
        most: chunks that are kept; what does not fit is left out with a note.
    Source: the packing rules of ComfyUI's CLIP tokenizer, which the networks' other workers run.
    """
    texts, weights, notes = _words(pieces)
    words = [_Word(ids=ids, weight=weight) for ids, weight in zip(tokenizer.encode(texts), weights, strict=True) if ids]
    rows = _pack(words)
    if len(rows) > most:
        notes.append(f"prompt cut: it makes {len(rows)} chunks of {CHUNK_TEXT} tokens, at most {most} are used")
        del rows[most:]
    ids_out = np.full((len(rows), CLIP_TOKENS), tokenizer.end, np.int64)
    weights_out = np.ones((len(rows), CLIP_TOKENS), np.float32)
    ids_out[:, 0] = tokenizer.start
    for number, row in enumerate(rows):
        ids_out[number, 1 : 1 + len(row.ids)] = row.ids
        weights_out[number, 1 : 1 + len(row.ids)] = row.weights
    return Chunks(ids=ids_out, weights=weights_out, notes=tuple(notes))


def _words(pieces: Iterable[Piece]) -> tuple[list[str], list[float], list[str]]:
    """Words of all pieces with their weights, textual inversions taken out, and a note for each of those."""
    texts: list[str] = []
    weights: list[float] = []
    dropped: dict[str, None] = {}
    for piece in pieces:
        for word in piece.text.split():
            if word.startswith(EMBEDDING):
                name = word.removeprefix(EMBEDDING).rstrip(",")
                dropped[name] = None
                word = word[len(EMBEDDING) + len(name) :]
            if word:
                texts.append(word)
                weights.append(piece.weight)
    notes = [f"textual inversion {name[:80]!r} left out: this worker has none" for name in dropped]
    return texts, weights, notes


@dataclass(slots=True)
class _Row:
    ids: list[int]
    weights: list[float]

    @property
    def room(self) -> int:
        return CHUNK_TEXT - len(self.ids)

    def add(self, ids: Sequence[int], weight: float) -> None:
        self.ids.extend(ids)
        self.weights.extend([weight] * len(ids))


def _pack(words: Iterable[_Word]) -> list[_Row]:
    rows = [_Row([], [])]
    for word in words:
        left = word.ids
        while left:
            row = rows[-1]
            if len(left) <= row.room:
                row.add(left, word.weight)
                left = _NO_IDS
                continue
            if len(word.ids) >= LONG_WORD:
                taken = row.room
                row.add(left[:taken], word.weight)
                left = left[taken:]
            rows.append(_Row([], []))
    return rows
