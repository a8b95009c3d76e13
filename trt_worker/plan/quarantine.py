"""What is kept out of use after failures, and when it is tried again.

Nobody sees whether a job or an engine made a call fail. What tells is a second trial: an engine is blamed when another
one made the job that it failed with, or when it fails with a probe, which is a small job of our own that asks for
nothing unusual. A quarantine ends by itself: probes go on, with growing waits, until one comes out well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from trt_worker.plan.blame import RECENT_SECONDS

PROBE_WAITS = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds until the next probe, by how many probes of a quarantine have failed; the last one holds from then on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """What is blamed: an engine of a backend on a device, or with `engine` empty all that the backend has of a model
    there."""

    device: int
    backend: str
    model: str
    engine: str = ""  # label of a denoiser engine, which names its size, and what it is used for

    @property
    def whole(self) -> Suspect:
        """The backend's whole model."""
        return replace(self, engine="")

    def __str__(self) -> str:
        return f"{self.device} {self.backend} {self.engine or self.model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What speaks against a suspect. Times are time.monotonic() seconds."""

    faults: tuple[float, ...] = ()  # when it failed with what others made; those that still count
    failed_probes: int = 0  # in a row
    probed: float | None = None  # when it was last told by a probe how it stands
    probe_at: float | None = None  # when it is to be tried again; None: it is in use and nobody asks
    barred: bool = False  # whether nothing but probes is sent to it
    reason: str = ""  # what it failed with last


def blamed(record: Record, now: float, reason: str, *, limit: int, bar: bool) -> Record:
    """The record after one more fault that no job explains.

    Args:
        reason: what it failed with.
        limit: recent faults that are too many, >= 1.
        bar: what becomes of it at the limit. True: it is barred, and probed later. False: it is probed at once and
            barred if that fails, too.
    """
    faults = (*(at for at in record.faults if now - at < RECENT_SECONDS), now)
    record = replace(record, faults=faults, reason=reason)
    if len(faults) < limit or record.barred or record.probe_at is not None:
        return record
    if bar:
        return replace(record, barred=True, probe_at=now + PROBE_WAITS[0])
    return replace(record, probe_at=now)


def probed(record: Record, now: float, failure: str) -> Record:
    """The record after a probe. Args: failure: why it came out badly; empty: it did not."""
    if not failure:
        return Record(probed=now)
    wait = PROBE_WAITS[min(record.failed_probes, len(PROBE_WAITS) - 1)]
    return replace(
        record,
        barred=True,
        failed_probes=record.failed_probes + 1,
        probed=now,
        probe_at=now + wait,
        reason=failure,
    )


def postponed(record: Record, now: float) -> Record:
    """The record after a probe that said nothing, because the device was away or had no time for it."""
    return replace(record, probe_at=now + PROBE_WAITS[0])


def withdrawn(able: Mapping[str, Collection[Suspect]], barred: Collection[Suspect]) -> frozenset[str]:
    """Models that cannot be served now: whatever could run them is barred.

    Args:
        able: by model, the whole models of every device and backend that can run it.
        barred: what nothing is sent to.
    """
    return frozenset(model for model, suspects in able.items() if suspects and all(one in barred for one in suspects))
