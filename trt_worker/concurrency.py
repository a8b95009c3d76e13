"""What several tasks of the worker need of anyio, said once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from time import monotonic
from typing import TypeVar

import anyio
from anyio.abc import TaskStatus

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time as whoever waits sees it: this machine's, unless it is given another."""

    now: Callable[[], float] = monotonic  # seconds
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep


class Backoff:
    """Waits that double from one failure to the next, in seconds, with jitter: many workers must not come at once."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def next_wait(self) -> float:
        """Seconds until the next try."""
        wait, self._next = self._next, min(self._next * 2, self._longest)
        return wait * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It worked: the next failure is a first one again."""
        self._next = self._first


class StartedOnce:
    """Tells whoever started a task that it may go on; further calls are harmless."""

    def __init__(self, task_status: TaskStatus[None]) -> None:
        self._task_status = task_status
        self._told = False

    def tell(self) -> None:
        if not self._told:
            self._told = True
            self._task_status.started()


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


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Run blocking work that may never return, as on a network drive that does not answer.

    Unlike anyio's worker threads, the thread does not keep the process from ending. Cancelling the call leaves it.

    Raises: what `work` raises.
    """
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for the thread
            future.set_exception(error)
        else:
            future.set_result(result)

    Thread(target=run, daemon=True, name="blocking").start()
    return await asyncio.wrap_future(future)


def first_leaf(error: BaseException) -> BaseException:
    """The first exception inside a group of groups; an exception that is no group is its own."""
    return first_leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
