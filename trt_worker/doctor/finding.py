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
    mend: str = ""  # one command, or the first of those that are needed; every fault has one

    def __post_init__(self) -> None:
        if self.mark == "fault" and not self.mend:
            raise ValueError(f"the fault {self.what!r} names no command: an operator would not know what to do")
