"""Keep secrets out of text: registered ones wherever they stand, and unregistered ones by the shape they have.

Every pattern takes time proportional to the text: each either consumes what it has looked at or looks at a bounded
stretch, so that no text keeps the event loop.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from urllib.parse import quote

from trt_engines.text import escaped

HIDDEN = "[hidden]"

SHORTEST_SECRET = 6
"""Shorter texts are not hidden: they would take ordinary words apart, and no network gives out such keys."""

ANONYMOUS_KEY = "0000000000"
"""Known to everybody, and part of ordinary numbers."""

_SHAPES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    # The query string of a presigned address is a credential; so are a user and a password before the host.
    (re.compile(r"(?i)\b((?:https?|wss?|s3)://)[^\s/?#@'\"<>]+@"), rf"\1{HIDDEN}@"),
    # Addresses without a query string, and names without a value, match too and stay: they are not looked at again.
    (
        re.compile(r"(?i)\b((?:https?|wss?|s3)://[^\s?#'\"<>]*)(\?[^\s'\"<>]*)?"),
        lambda found: f"{found[1]}?{HIDDEN}" if found[2] else found[1],
    ),
    (
        re.compile(r"(?i)\b(X-(?:Amz|Goog)-[A-Za-z-]+)(=[^&\s'\"<>]+)?"),
        lambda found: f"{found[1]}={HIDDEN}" if found[2] else found[1],
    ),
    (re.compile(r"\bgrid_[A-Za-z0-9_-]{16,}"), HIDDEN),
    (re.compile(r"(?i)\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {HIDDEN}"),
    (
        re.compile(
            r"(?i)\b(['\"]?(?:api_?key|[a-z_]*api_token|authorization|private_key|secret|password|signature)['\"]?"
            r"\s*[:=]\s*b?)(?:'[^'\n]+'|\"[^\"\n]+\"|(?!\[hidden\]|(?:Bearer|Basic)\b)[^\s,;&'\"{}()\[\]]{6,})"
        ),
        rf"\1{HIDDEN}",
    ),
)

LONGEST_SHAPE = 200
"""Characters from the start of a secret that has a shape to where it can be told by it, at most."""


class Redactor:
    """Hides the secrets it was told, as they are, percent-encoded and as Python would print them."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {
            form
            for secret in secrets
            if len(secret) >= SHORTEST_SECRET and secret != ANONYMOUS_KEY
            for form in (secret, quote(secret, safe=""), repr(secret)[1:-1])
        }
        longest_first = sorted(forms, key=len, reverse=True)
        self.longest = max(LONGEST_SHAPE, *map(len, forms)) if forms else LONGEST_SHAPE
        """Characters at the end of a text that was cut which may be the start of a secret."""
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """`text` without secrets, and with control characters, which would steer a terminal, as escapes."""
        text = escaped(text, keep="\n\t")
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for shape, shown in _SHAPES:
            text = shape.sub(shown, text)
        return text

    def __repr__(self) -> str:
        return "Redactor()"
