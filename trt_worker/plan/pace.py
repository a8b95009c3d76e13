"""How fast this rig is, learned from what it does, and whether a job can still be on time."""

from __future__ import annotations

from dataclasses import dataclass, replace

_MEMORY = 0.2
"""Weight of the newest measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds of device time per megapixel-step when batches are as full as they have been; None: nothing measured."""

    seconds_per_megapixel_step: float | None = None
    overhead_seconds: float = 0.0  # decoding, encoding and hand-in per job

    def measured(self, megapixel_steps: float, device_seconds: float, overhead_seconds: float) -> Pace:
        """The pace after one more job.

        Args:
            device_seconds: device time that belongs to this job: its share of the calls it was in.
            overhead_seconds: from its last step to the acknowledgement.
        """
        if megapixel_steps <= 0:
            return self
        newest = device_seconds / megapixel_steps
        if self.seconds_per_megapixel_step is None:
            return replace(self, seconds_per_megapixel_step=newest, overhead_seconds=overhead_seconds)
        return Pace(
            seconds_per_megapixel_step=(1 - _MEMORY) * self.seconds_per_megapixel_step + _MEMORY * newest,
            overhead_seconds=(1 - _MEMORY) * self.overhead_seconds + _MEMORY * overhead_seconds,
        )

    def seconds(self, megapixel_steps: float) -> float:
        """Device time for some work; 0 while nothing is measured."""
        return (self.seconds_per_megapixel_step or 0.0) * megapixel_steps

    def finish(self, now: float, ahead: float, own: float, *, devices: int = 1) -> float:
        """When a job would be acknowledged.

        Args:
            now: time.monotonic() seconds.
            ahead: megapixel-steps taken before it and not yet done.
            own: its own megapixel-steps, which one device does alone.
            devices: share what is ahead, >= 1.
        """
        return now + self.seconds(ahead / devices + own) + self.overhead_seconds
