"""Which connections may be away for a moment, to register again with what is offered now.

The grid loses a job that it holds for a connection when that closes while nobody looks. A ping is the moment to go: no
job waits for the connection then, and the grid reads its answer, so it notices at once that the connection closes. A
connection that is never idle long enough for a ping goes when no job has followed an acknowledgement. Few are away at a
time: the others are there for what comes meanwhile, and less of it reaches one that is leaving.

Source: the AIPG coordinator, read: it pings a connection after 10 s without a job and then reads its socket for 0.5 s,
and otherwise during jobs only. Of the jobs fetched for a connection, it hands back the one that runs and the next.
"""

from __future__ import annotations

import math

SHARE = 4
"""One of so many connections may be away, the last of an uneven number too: all are renewed within so many pings."""


class Renewals:
    """The places for connections that are away."""

    def __init__(self, connections: int) -> None:
        self._most = math.ceil(connections / SHARE)
        self._away: set[str] = set()

    def begin(self, name: str) -> bool:
        """Whether a connection may leave now; its place is taken until `end`."""
        if len(self._away) >= self._most and name not in self._away:
            return False
        self._away.add(name)
        return True

    def end(self, name: str) -> None:
        """A connection is back, or it is clear that it will not be soon; one that was not away stays as it is."""
        self._away.discard(name)
