"""What several tasks of the worker need of anyio, said once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import anyio


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time as whoever waits sees it: this machine's, unless it is given another."""

    now: Callable[[], float] = monotonic  # seconds
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep


class Stop:
    """A request to stop that also ends the waits it is to end."""

    def __init__(self) -> None:
        self._requested = False
        self._waits: set[anyio.CancelScope] = set()

    @property
    def requested(self) -> bool:
        return self._requested

    def request(self) -> None:
        """Stop: waits that are open end now, later ones at once."""
        self._requested = True
        for wait in self._waits:
            wait.cancel()

    @contextmanager
    def ends(self) -> Iterator[None]:
        """Waits in here end at `request`."""
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                if self._requested:
                    scope.cancel()
                yield
            finally:
                self._waits.discard(scope)


async def cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    """Cancel a scope once something has happened."""
    await event.wait()
    scope.cancel()


def first_leaf(error: BaseException) -> BaseException:
    """The first exception inside a group of groups; an exception that is no group is its own."""
    return first_leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
