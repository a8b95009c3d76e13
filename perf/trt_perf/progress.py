"""What a long suite is doing, on standard error."""

from __future__ import annotations

import sys
from time import monotonic


class Progress:
    """Lines with the seconds since it was made."""

    def __init__(self) -> None:
        self._began = monotonic()

    def say(self, text: str) -> None:
        """Write a line."""
        sys.stderr.write(f"{monotonic() - self._began:7.0f} s  {text}\n")
        sys.stderr.flush()
