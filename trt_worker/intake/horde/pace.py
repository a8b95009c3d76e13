"""When the next pop may leave."""

from __future__ import annotations

import random

from trt_worker.concurrency import Backoff

LONGEST_RETRY_WAIT = 60.0
"""Seconds between two tries of a call that keeps failing."""

_IDLE_GROWTH = 1.5
_JITTER = 0.25
"""Share of a wait that is added at random: workers that were refused together must not come back together."""


class Pace:
    """Times of pops: at once while jobs come, further and further apart while none do. Times as time.monotonic()."""

    def __init__(self, *, first_idle_wait: float, longest_idle_wait: float, first_retry_wait: float) -> None:
        self._first_idle_wait = first_idle_wait
        self._longest_idle_wait = longest_idle_wait
        self._idle_wait = first_idle_wait
        self._failures = Backoff(first_retry_wait, LONGEST_RETRY_WAIT)
        self.not_before = 0.0
        self.probing = True
        """The last pop brought nothing: one pop at a time is enough to notice that work has come."""

    def job(self) -> None:
        """A pop brought a job."""
        self._idle_wait = self._first_idle_wait
        self._failures.reset()
        self.probing = False

    def nothing(self, now: float) -> None:
        """A pop brought no job."""
        self._failures.reset()
        self._put_off(now, min(self._idle_wait * random.uniform(1.0, 1.0 + _JITTER), self._longest_idle_wait))
        self._idle_wait = min(self._idle_wait * _IDLE_GROWTH, self._longest_idle_wait)

    def failure(self, now: float) -> float:
        """A pop failed; returns the seconds until the next."""
        wait = self._failures.next_wait()
        self._put_off(now, wait)
        return wait

    def hold(self, now: float, seconds: float) -> None:
        """No pop for so long, whatever else happens."""
        self._put_off(now, seconds)

    def _put_off(self, now: float, seconds: float) -> None:
        self.not_before = max(self.not_before, now + seconds)
        self.probing = True
