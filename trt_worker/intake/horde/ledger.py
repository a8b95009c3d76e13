"""What a Horde worker did, earned and dropped."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from loguru import logger

from trt_worker.intake.horde.messages import User
from trt_worker.job import JobSpec
from trt_worker.sampler_names import SECOND_ORDER

FORCED_MAINTENANCE_DROPS = 21
"""Dropped images within an hour at which the server puts the worker into maintenance."""

WARN_DROPS = 10

LONGEST_HOLD = 300.0
"""Seconds. Holds of 5, 10, 20, ... up to this add up to more than an hour before the 21st drop."""

SUSPICIOUS_SPEED = 20.0
"""Megapixel-steps per second and image, from pop to submit, above which the server suspects an untrusted worker of
cheating. Five such images pause the worker, which then gets made-up jobs and is not told."""

_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HordeStats:
    """One look at the transport."""

    popped: int  # jobs
    submitted: int  # images the server took
    faulted: int  # images handed in as faulted
    drops_this_hour: int  # images the server counts as dropped by this worker
    kudos: float  # this session's rewards as quoted; the account is credited less under an unlisted bridge_agent
    skipped: Mapping[str, int]  # requests the server last held back, by reason; not a diagnosis
    username: str
    user_kudos: float | None  # of the account, as of the start
    maintenance: str  # the server's message; empty: not in maintenance


class Ledger:
    """Counts; one per transport."""

    def __init__(self) -> None:
        self.user = User()
        self.skipped: Mapping[str, int] = {}
        self.maintenance = ""
        self._count: Counter[str] = Counter()
        self._kudos = 0.0
        self._drops: deque[float] = deque()
        self._warned_of_drops = False
        self._warned_of_speed = False

    def popped(self) -> None:
        """A job came."""
        self._count["popped"] += 1

    def submitted(self, reward: float) -> None:
        """The server took an image."""
        self._count["submitted"] += 1
        self._kudos += reward

    def faulted(self) -> None:
        """An image was handed in as faulted, which counts as dropped."""
        self._count["faulted"] += 1
        self.dropped()

    def dropped(self) -> None:
        """The server counts an image as dropped by this worker."""
        self._drops.append(time.monotonic())
        drops = self.drops_this_hour
        if drops < WARN_DROPS:
            self._warned_of_drops = False
        elif not self._warned_of_drops:
            self._warned_of_drops = True
            logger.warning(
                "Horde: {} images dropped within an hour; at {} the server puts this worker into maintenance. "
                "The lines above name the reasons; pops are held back meanwhile.",
                drops,
                FORCED_MAINTENANCE_DROPS,
            )

    @property
    def drops_this_hour(self) -> int:
        """Images dropped within the last hour."""
        oldest = time.monotonic() - _HOUR
        while self._drops and self._drops[0] < oldest:
            self._drops.popleft()
        return len(self._drops)

    def hold_after_fault(self, first: float) -> float:
        """Seconds to leave the network alone after a fault: the same worker would get the same job again at once."""
        return min(first * 2.0 ** min(max(self.drops_this_hour - 1, 0), 20), LONGEST_HOLD)

    def watch_speed(self, job: JobSpec, seconds: float) -> None:
        """Say once when images come back faster than the server believes of an untrusted worker."""
        if self._warned_of_speed or self.user.trusted or seconds <= 0:
            return
        steps = job.steps * (2 if job.sampler in SECOND_ORDER else 1)
        speed = job.width * job.height / 1e6 * steps / seconds
        if speed > SUSPICIOUS_SPEED:
            self._warned_of_speed = True
            logger.warning(
                "Horde: job {} ran at {:.0f} megapixel-steps/s per image. Above {:.0f} the server adds a suspicion to "
                "workers of accounts that are not trusted, and pauses them silently at five: ask the Horde's staff "
                "to trust the account.",
                job.id,
                speed,
                SUSPICIOUS_SPEED,
            )

    def stats(self) -> HordeStats:
        """A snapshot."""
        return HordeStats(
            popped=self._count["popped"],
            submitted=self._count["submitted"],
            faulted=self._count["faulted"],
            drops_this_hour=self.drops_this_hour,
            kudos=self._kudos,
            skipped=self.skipped,
            username=self.user.username,
            user_kudos=self.user.kudos,
            maintenance=self.maintenance,
        )
