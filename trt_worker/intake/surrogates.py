"""Text that JSON can hold and Unicode cannot: half of a surrogate pair, as in `"\\ud83d"`.

Servers written in Python let it through, from a customer's prompt to the worker; strict readers refuse the message.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    r"\\(?:"
    r"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    r"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})"
    r"|.)",
    re.DOTALL,
)


MOST_ESCAPES = 2**20
"""Text with more is left as it is: looking at each takes a microsecond, and no customer writes so many."""


def replace_lone_surrogates(text: str) -> str:
    """JSON text with the replacement character in place of every escape that is half of a surrogate pair."""
    if text.count("\\") > MOST_ESCAPES:
        return text
    return _ESCAPE.sub(lambda escape: r"\ufffd" if escape["half"] else escape[0], text)
