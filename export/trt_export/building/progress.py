"""How far builds are and how long they will still take: estimates, corrected by what the phases before took."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from trt_export.estimates import PHASES, seconds_together

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


def pace_of(phases: Iterable[tuple[float, float]]) -> float:
    """How much slower this machine is than the estimates. Args: phases: seconds expected and taken of finished ones."""
    telling = [(expected, taken) for expected, taken in phases if taken >= TRUSTED_SECONDS and expected]
    if not telling:
        return 1.0
    pace = sum(taken for _, taken in telling) / sum(expected for expected, _ in telling)
    return min(max(pace, PACE[0]), PACE[1])


def seconds_left(
    expected: Mapping[str, float], taken: Mapping[str, float], phase: str, share: float, elapsed: float
) -> float:
    """Time that the phase under way and those after it will take.

    Args:
        expected: seconds of every phase.
        taken: seconds of the phases that are over.
        phase: under way; share: of it that is done; elapsed: seconds since it began.
    """
    pace = pace_of((expected.get(name, 0.0), seconds) for name, seconds in taken.items())
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

    @property
    def finished(self) -> Sequence[tuple[float, float]]:
        """Seconds expected and taken of the phases that are over."""
        return [(self._expected.get(name, 0.0), seconds) for name, seconds in self._taken.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """An engine that is to be built."""

    label: str
    expected: Mapping[str, float]  # seconds of each phase, without those whose results are there already


class Outlook:
    """Follows all builds of a command: those under way, those to come, those that are over."""

    def __init__(
        self, builds: Sequence[Planned], admit: Callable[[Sequence[int], Collection[int]], int | None]
    ) -> None:
        """Args: admit: as `seconds_together` takes it; numbers are places in `builds`."""
        self.builds = builds
        self.admit = admit
        self.waiting = list(range(len(builds)))
        self.under_way: dict[int, Track] = {}
        self._over: list[Track] = []

    def begin(self, number: int) -> Track:
        """Another build is under way."""
        self.waiting.remove(number)
        self.under_way[number] = Track(self.builds[number].expected)
        return self.under_way[number]

    def end(self, number: int) -> None:
        """A build is over."""
        self._over.append(self.under_way.pop(number))

    def left(self, now: float) -> float:
        """Seconds until all builds are over; those to come are expected at the pace of the others."""
        tracks = (*self._over, *self.under_way.values())
        pace = pace_of(phase for track in tracks for phase in track.finished)
        expected = [pace * sum(one.expected.values()) for one in self.builds]
        left = {number: track.standing(now).left for number, track in self.under_way.items()}
        return seconds_together(left, self.waiting, expected, self.admit)
