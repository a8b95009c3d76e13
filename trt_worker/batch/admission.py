"""Which waiting rows join a batch, and which batch steps next: pure decisions over small values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from trt_worker.batch.turns import Turns


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
    """What the choice between batches has to know of one."""

    key: BatchKey
    rows: int
    room: int
    last_step: float  # time.monotonic() seconds of its last engine call; of its making while it had none
    due: float  # of its most urgent row
    seconds_left: float  # of that row
    arrived: float = 0.0  # of its oldest row
    switch_seconds: float = 0.0  # until its engines are resident; 0: they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Rows that join before the next step, the most urgent first, and rows that can no longer be on time."""

    join: tuple[WaitingRow, ...]
    late: tuple[WaitingRow, ...]


def admit(key: BatchKey, room: int, waiting: Sequence[WaitingRow], now: float) -> Admission:
    """Rows that join the batch of `key`, which has `room` free places; late rows are reported, never dropped.

    Those with the least time to spare join first, and of equals the oldest. Time to spare is due time less work, so it
    does not change while a row waits: later rows cannot overtake it for ever.
    """
    late = tuple(row for row in waiting if now + row.seconds_left > row.due)
    lost = {(row.job, row.index) for row in late}
    fits = [row for row in waiting if row.key == key and (row.job, row.index) not in lost]
    fits.sort(key=lambda row: (row.due - row.seconds_left, row.arrived, row.job, row.index))
    return Admission(join=tuple(fits[: max(room, 0)]), late=late)


def next_batch(
    batches: Sequence[RunningBatch], now: float, *, patience: float, guard: float, turns: Turns | None = None
) -> BatchKey | None:
    """The batch that steps next.

    A batch whose most urgent row has less than `guard` seconds to spare goes first; one that is late by more than that
    is nobody's hurry any more. Then one that has not stepped for `patience` seconds, or for as long as pays for
    loading its engines, so that a rare size or model is never starved. Then the model whose turn it is, and of its
    batches the one with the oldest row: what has begun is finished, and others ride along. Of equals, the one with the
    most rows; then they take turns.

    Returns: its key; None when no batch has rows.
    """
    turns = turns or Turns()
    live = [batch for batch in batches if batch.rows]
    if not live:
        return None

    def spare(batch: RunningBatch) -> float:
        return batch.due - now - batch.seconds_left - batch.switch_seconds

    urgent = [batch for batch in live if -guard < spare(batch) < guard]
    if urgent:
        return min(urgent, key=lambda batch: (spare(batch), batch.last_step)).key
    starved = [
        batch
        for batch in live
        if now - batch.last_step >= (turns.patience(batch.switch_seconds) if batch.switch_seconds else patience)
    ]
    if starved:
        return min(starved, key=attrgetter("last_step")).key
    switches: dict[str, float] = {}
    for batch in live:
        switches[batch.key.model] = min(batch.switch_seconds, switches.get(batch.key.model, batch.switch_seconds))
    model = turns.next(switches)
    return min(
        (batch for batch in live if batch.key.model == model),
        key=lambda batch: (batch.switch_seconds, batch.arrived, -batch.rows, batch.last_step),
    ).key
