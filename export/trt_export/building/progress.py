"""How far a build is and how long it will still take: estimates, corrected by what the phases before took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PHASES = ("export", "bind", "parse", "build", "certify")
"""Of one engine, in their order."""

TRUSTED_SECONDS = 1.0
"""That a finished phase must have taken to say how fast this machine is; what is found in a cache takes none."""

PACE = (0.25, 4.0)
"""Least and most that this machine's pace changes an estimate by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far the build of one engine is."""

    step: str  # one of PHASES, or what it waits for
    share: float  # of the step, 0..1
    left: float  # seconds of this engine, an estimate
    done: float  # of the whole engine, 0..1, an estimate


def seconds_left(
    expected: Mapping[str, float], taken: Mapping[str, float], phase: str, share: float, elapsed: float
) -> float:
    """Time that the phase under way and those after it will take.

    Args:
        expected: seconds of every phase.
        taken: seconds of the phases that are over.
        phase: under way; share: of it that is done; elapsed: seconds since it began.
    """
    telling = [name for name, seconds in taken.items() if seconds >= TRUSTED_SECONDS and expected.get(name)]
    pace = 1.0
    if telling:
        pace = sum(taken[name] for name in telling) / sum(expected[name] for name in telling)
        pace = min(max(pace, PACE[0]), PACE[1])
    whole = pace * expected.get(phase, 0.0)
    # The further a phase is, the more its own pace says, which is elapsed / share; this is both, weighed by the share.
    here = (1 - share) * max(elapsed, whole) if share else max(0.0, whole - elapsed)
    after = PHASES[PHASES.index(phase) + 1 :] if phase in PHASES else PHASES
    return here + pace * sum(expected.get(name, 0.0) for name in after)


class Track:
    """Follows one build from phase to phase."""

    def __init__(self, expected: Mapping[str, float]) -> None:
        self._expected = expected
        self._taken: dict[str, float] = {}
        self._step, self._share, self._began, self._told = PHASES[0], 0.0, 0.0, False

    def at(self, step: str, share: float, now: float) -> Standing:
        """Take what a build reports. Args: now: seconds on any clock, the same at every call."""
        if not self._told or step != self._step:
            if self._told and self._step in PHASES:
                self._taken[self._step] = now - self._began
            self._step, self._began, self._told = step, now, True
        self._share = share
        return self.standing(now)

    def standing(self, now: float) -> Standing:
        """As of now, if nothing else was reported since."""
        if not self._told:
            return Standing(step="", share=0.0, left=sum(self._expected.values()), done=0.0)
        elapsed = now - self._began
        left = seconds_left(self._expected, self._taken, self._step, self._share, elapsed)
        spent = sum(self._taken.values()) + elapsed
        return Standing(step=self._step, share=self._share, left=left, done=spent / (spent + left) if spent else 0.0)
