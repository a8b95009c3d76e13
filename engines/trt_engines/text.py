"""Text that came from outside, fit to be quoted in a message, a log line, a table or a label."""

from __future__ import annotations

LONGEST = 200
"""Characters of a quoted text: enough for any name, and for the cause in a sentence."""


def shown(text: object, most: int = LONGEST) -> str:
    """A text as one line of printable characters, at most `most` of them; a longer one ends with its length."""
    whole = text if isinstance(text, str) else str(text)
    line = escaped(whole[:most])
    if len(whole) <= most and len(line) <= most:
        return line
    end = f"... ({len(whole)} characters)"
    return line[: max(0, most - len(end))] + end


def escaped(text: str, keep: str = "") -> str:
    """A text without what a terminal or a reader of lines would obey.

    Control characters, line ends, marks that turn the direction of writing and half surrogate pairs become Python's
    escapes, as in `\\x1b`.

    Args:
        keep: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else character.encode("unicode_escape").decode()
        for character in text
    )
