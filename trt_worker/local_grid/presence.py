"""Which worker names the grid takes for online: entries that live for a while and are refreshed as long as their
connection is up.

Source: the AIPG coordinator, read: an entry lives 60 s, is refreshed every 20 s and deleted when its connection ends.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What the grid's list says of one worker."""

    worker_id: str
    name: str
    models: tuple[str, ...]
    job_types: tuple[str, ...]


class Presence:
    """The entries; they outlive a coordinator that ends without deleting them.

    Args:
        seconds: life of an entry that nobody refreshes.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._entries: dict[str, tuple[float, Present]] = {}  # by name: time.monotonic() of its end, what it says

    def note(self, entry: Present) -> None:
        """A worker is here, from now on for the life of an entry."""
        self._entries[entry.name] = (time.monotonic() + self._seconds, entry)

    def delete(self, name: str) -> None:
        """A worker has left; a name without an entry stays without one."""
        self._entries.pop(name, None)

    def online(self) -> list[Present]:
        """The workers whose entries live."""
        now = time.monotonic()
        return [entry for ends, entry in self._entries.values() if ends > now]
