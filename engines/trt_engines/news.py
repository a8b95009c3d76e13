"""What a process that adds models in the background tells the worker: a line of JSON for each thing."""

from __future__ import annotations

import msgspec


class News(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that has come of adding models."""

    text: str  # for the log
    failed: bool = False  # an operator has to do something
    added: str | None = None  # name of a model that is there from now on

    def line(self) -> bytes:
        """As it is written."""
        return msgspec.json.encode(self) + b"\n"


def read_news(line: bytes) -> News | None:
    """What a line says; None: it is of another kind, such as a library's warning."""
    try:
        return msgspec.json.decode(line, type=News)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
