"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A fact about the rig."""

    mark: Literal["ok", "note", "fault"]  # a note stops nothing; a fault keeps the worker from its work
    what: str
    text: str
    mend: str = ""  # one command, or the first of those that are needed
