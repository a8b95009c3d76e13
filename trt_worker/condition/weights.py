"""Emphasis in prompts: which words count how much.

Rules, as ComfyUI's prompt parser behaves:

* `(x)` multiplies the weight of x by 1.1, nested groups multiply again;
* `(x:w)` sets the weight to w, whatever surrounds it; the last colon of the group counts, one at its very start does
  not, and what is no number stays part of the text; `inf` is a number (the largest weight), and so is `nan`, which
  sets nothing: there alone we differ, for ComfyUI multiplies with it and draws a black picture;
* `\\(` and `\\)` are plain parentheses, any other backslash is text;
* a `(` that is never closed is text together with all that follows it, unless the prompt ends in `)`: then the outer
  pair is taken off and what is inside is read again;
* a `)` without a `(` is text, and one later `(` is needed to make up for it before groups are read again.

Brackets, BREAK, AND and schedules mean nothing here and are read as text.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from dataclasses import dataclass

GROUP_FACTOR = 1.1
"""What a pair of parentheses multiplies a weight by."""

MAX_WEIGHT = 1e4
"""Weights are clipped to this size: far past any picture, and thousands of nested groups must not reach infinity."""

_MARK = re.compile(r"\\[()]|[()]|:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of the prompt with one weight; escapes are resolved."""

    text: str
    weight: float


def parse_weights(prompt: str) -> tuple[Piece, ...]:
    """Cut a prompt into pieces of one weight each, in order.

    Takes time linear in the prompt (times a logarithm) and no recursion, so that neither long prompts nor thousands of
    nested groups hurt.
    """
    return tuple(_Reader(prompt).read())


@dataclass(slots=True, kw_only=True)
class _Range:
    """A part of the prompt still to be read."""

    position: int
    end: int
    weight: float
    depth: int = 0  # negative after a surplus ")"
    text_from: int  # start of the plain text not yet put out


class _Reader:
    """One pass over one prompt."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._parens: list[int] = []  # positions of unescaped parentheses, rising
        self._colons: list[int] = []
        self._closing: dict[int, int] = {}  # "(" -> the ")" that closes it
        opened: list[int] = []
        for mark in _MARK.finditer(prompt):
            at = mark.start()
            match mark.group():
                case "(":
                    self._parens.append(at)
                    opened.append(at)
                case ")":
                    self._parens.append(at)
                    if opened:
                        self._closing[opened.pop()] = at
                case ":":
                    self._colons.append(at)
        self._pieces: list[Piece] = []

    def read(self) -> list[Piece]:
        todo = [_Range(position=0, end=len(self._prompt), weight=1.0, text_from=0)]
        while todo:
            inner = self._advance(todo[-1])
            if inner is None:
                todo.pop()
            else:
                todo.append(inner)
        return self._pieces

    def _advance(self, part: _Range) -> _Range | None:
        """Read on in `part` until a group opens, and return the inside of that group; None: `part` is done."""
        index = bisect_left(self._parens, part.position)
        while index < len(self._parens) and (at := self._parens[index]) < part.end:
            if self._prompt[at] == ")":
                part.depth -= 1
            elif part.depth < 0:
                part.depth += 1
            else:
                return self._open(part, at)
            index += 1
        self._put(part.text_from, part.end, part.weight)
        return None

    def _open(self, part: _Range, at: int) -> _Range | None:
        """The inside of the group that opens at `at`, with `part` set to go on behind it."""
        self._put(part.text_from, at, part.weight)
        close = self._closing.get(at, part.end)
        if close >= part.end:  # never closed inside this part
            last = part.end - 1
            if last == at or not self._is_closing(last):
                self._put(at, part.end, part.weight)
                return None
            close = last
        part.position = part.text_from = close + 1
        return self._inside(at + 1, close, part.weight)

    def _is_closing(self, at: int) -> bool:
        index = bisect_left(self._parens, at)
        return index < len(self._parens) and self._parens[index] == at and self._prompt[at] == ")"

    def _inside(self, start: int, end: int, outer: float) -> _Range:
        weight = outer * GROUP_FACTOR
        index = bisect_left(self._colons, end) - 1
        if index >= 0 and (colon := self._colons[index]) > start:
            number = self._number(colon + 1, end)
            if number is not None:
                weight, end = weight if math.isnan(number) else number, colon
        weight = max(-MAX_WEIGHT, min(MAX_WEIGHT, weight))
        return _Range(position=start, end=end, weight=weight, text_from=start)

    def _number(self, start: int, end: int) -> float | None:
        paren = bisect_left(self._parens, start)
        if paren < len(self._parens) and self._parens[paren] < end:
            return None  # not even looked at: a colon far out in front of many groups would be read once for each
        try:
            return float(self._prompt[start:end])
        except ValueError:
            return None

    def _put(self, start: int, end: int, weight: float) -> None:
        if start < end:
            text = self._prompt[start:end].replace(r"\(", "(").replace(r"\)", ")")
            self._pieces.append(Piece(text=text, weight=weight))
