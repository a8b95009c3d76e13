"""Which waiting rows join a batch, and which batch steps next: pure decisions over small values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class BatchKey:
    """What rows must have in common to share an engine call; everything else may differ from row to row."""

    model: str
    backend: str
    width: int  # pixels
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRow:
    """One image that waits for a place."""

    job: str
    index: int  # of the image in its job
    key: BatchKey
    arrived: float  # time.monotonic() seconds
    due: float
    seconds_left: float  # estimate of denoising and decoding once it is in a batch; 0 while nothing is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningBatch:
    """What admission has to know of a batch."""

    key: BatchKey
    rows: int
    room: int
    last_step: float  # time.monotonic() seconds of its last engine call
    due: float  # of its most urgent row
    seconds_left: float  # of that row


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Rows that join before the next step, oldest first, and rows that can no longer be on time."""

    join: tuple[WaitingRow, ...]
    late: tuple[WaitingRow, ...]


def admit(key: BatchKey, room: int, waiting: Sequence[WaitingRow], now: float) -> Admission:
    """Rows that join the batch of `key`, which has `room` free places; late rows are reported, never dropped."""
    late = tuple(row for row in waiting if now + row.seconds_left > row.due)
    lost = {(row.job, row.index) for row in late}
    fits = [row for row in waiting if row.key == key and (row.job, row.index) not in lost]
    return Admission(join=tuple(sorted(fits, key=attrgetter("arrived", "index"))[:room]), late=late)


def next_batch(batches: Sequence[RunningBatch], now: float, *, patience: float, guard: float) -> BatchKey | None:
    """The batch that steps next.

    A batch whose most urgent row has less than `guard` seconds to spare goes first; then one that has not stepped for
    `patience` seconds, so that a rare size is never starved; then the one with the most rows, since they share the
    call; equals take turns.

    Returns: its key; None when no batch has rows.
    """
    live = [batch for batch in batches if batch.rows]
    if not live:
        return None
    urgent = [batch for batch in live if batch.due - now - batch.seconds_left < guard]
    if urgent:
        return min(urgent, key=lambda batch: (batch.due - batch.seconds_left, batch.last_step)).key
    starved = [batch for batch in live if now - batch.last_step >= patience]
    if starved:
        return min(starved, key=attrgetter("last_step")).key
    return min(live, key=lambda batch: (-batch.rows, batch.last_step)).key
