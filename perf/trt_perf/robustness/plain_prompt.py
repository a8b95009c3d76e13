"""How a prompt becomes weighted tokens, written down a second time: rule after rule, with no regard for time or depth.

The worker's own reading (`trt_worker.condition`) is compared with this one. Nothing here may be shared with it but the
tokenizer and the largest weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from trt_worker.condition.weights import MAX_WEIGHT

Encode = Callable[[str], list[int]]
"""Token ids of a text, without start and end."""

CHUNK = 77
LONG = 8

_OPENING, _CLOSING = "\ue000", "\ue001"  # stand for escaped parentheses while groups are looked for


def plain_weights(prompt: str) -> list[tuple[str, float]]:
    """Stretches of one weight, in order: a group multiplies its weight by 1.1, or takes the number behind its colon."""
    return _groups(prompt.replace(r"\)", _CLOSING).replace(r"\(", _OPENING), 1.0)


def plain_chunks(prompt: str, encode: Encode, start: int, end: int) -> list[list[tuple[int, float]]]:
    """Chunks of 77 pairs of token and weight.

    What stays together is the whole stretch of one weight, cut only before `embedding:` after a space or a line break.
    Of 8 tokens or more it is cut exactly at the end of a chunk, of fewer it moves on whole. Textual inversions are
    left out, since there are none.
    """
    chunks: list[list[tuple[int, float]]] = [[]]
    for text, weight in plain_weights(prompt):
        for part in _parts(text):
            tokens = encode(part)
            if len(tokens) < LONG and len(chunks[-1]) + len(tokens) > CHUNK - 2:
                chunks.append([])
            for token in tokens:
                if len(chunks[-1]) == CHUNK - 2:
                    chunks.append([])
                chunks[-1].append((token, weight))
    return [[(start, 1.0), *chunk, *[(end, 1.0)] * (CHUNK - 1 - len(chunk))] for chunk in chunks]


def _groups(text: str, weight: float) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for part in _outermost(text):
        if len(part) < 2 or part[0] != "(" or part[-1] != ")":
            found.append((part.replace(_OPENING, "(").replace(_CLOSING, ")"), weight))
            continue
        inner, own = part[1:-1], weight * 1.1
        head, colon, tail = inner.rpartition(":")
        if colon and head:
            try:
                number = float(tail)
            except ValueError:
                pass
            else:
                inner, own = head, own if math.isnan(number) else number
        found += _groups(inner, max(-MAX_WEIGHT, min(MAX_WEIGHT, own)))
    return found


def _outermost(text: str) -> list[str]:
    """The text cut before each outermost group that opens and behind each that closes."""
    cuts, depth = [0], 0
    for at, character in enumerate(text):
        if character == "(":
            if depth == 0:
                cuts.append(at)
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                cuts.append(at + 1)
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True) if a < b]


def _parts(text: str) -> list[str]:
    """A stretch cut before each textual inversion, these taken out: the name with its commas around is one word."""
    parts = text.replace("\nembedding:", " embedding:").split(" embedding:")
    if parts[0].startswith("embedding:"):
        parts = ["", parts[0].removeprefix("embedding:"), *parts[1:]]
    return [parts[0], *map(_behind_the_name, parts[1:])]


def _behind_the_name(text: str) -> str:
    words = text.split()
    if not words:
        return ""
    commas = len(words[0]) - len(words[0].strip(","))
    return " ".join([words[0][len(words[0]) - commas :], *words[1:]])
