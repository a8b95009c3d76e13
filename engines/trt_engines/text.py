"""Text that came from outside, fit to be quoted in a message, a log line, a table or a label."""

from __future__ import annotations

import re

LONGEST = 200
"""Characters of a quoted text: enough for any name, and for the cause in a sentence."""

LONGEST_MESSAGE = 4000
"""Characters of a whole message: enough for a list of what is wrong with a file."""

_UNUSUAL = re.compile(r"[^\x20-\x7e]")


def shown(text: object, most: int = LONGEST) -> str:
    """A text as one line of printable characters, at most `most` of them; a longer one is cut in the middle.

    So what a message says after something long that it quotes is still said.

    Args:
        most: at least 60.
    """
    return _cut(text, most, keep="")


def message(text: object, most: int = LONGEST_MESSAGE) -> str:
    """The same for a message of our own that quotes such texts: its lines stay lines."""
    return _cut(text, most, keep="\n\t")


def escaped(text: str, keep: str = "") -> str:
    """A text without what a terminal or a reader of lines would obey, in time proportional to its length.

    Control characters, line ends, marks that turn the direction of writing and half surrogate pairs become Python's
    escapes, as in `\\x1b`.

    Args:
        keep: characters that stay as they are.
    """

    def replaced(found: re.Match[str]) -> str:
        character = found[0]
        if character.isprintable() or character in keep:
            return character
        return character.encode("unicode_escape").decode()

    return _UNUSUAL.sub(replaced, text)


def _cut(text: object, most: int, keep: str) -> str:
    whole = text if isinstance(text, str) else str(text)
    if len(whole) <= most and len(kept := escaped(whole, keep)) <= most:
        return kept
    gap = f" ...({len(whole)} characters)... "
    last = (most - len(gap)) // 3
    first = most - len(gap) - last
    return escaped(whole[:first], keep)[:first] + gap + escaped(whole[-last:], keep)[-last:]
