"""The bookkeeping of a device's rows: who waits, who shares which batch, how far each one is. No tensors, no clock.

What it decides, `admission`, `speed` and `turns` decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from trt_worker.batch.admission import Admission, BatchKey, RunningBatch, WaitingRow, admit, next_batch
from trt_worker.batch.speed import BatchSpeed, worthwhile_rows
from trt_worker.batch.turns import Turns

PATIENCE_SECONDS = 10.0
"""A batch whose rows are younger than another's waits no longer than this for its next step."""

GUARD_SECONDS = 5.0
"""A row with less than this to spare before it is due has its batch step first."""

LEAST_GAIN = 0.04
"""Share of the seconds per image that doubling a batch must save; below, more rows only make everybody wait."""

Place = tuple[str, int]
"""A job, and one image of it."""


@dataclass(slots=True, kw_only=True)
class _Member:
    """One image, waiting or running."""

    job: str
    index: int
    key: BatchKey
    arrived: float
    due: float
    stages_left: int

    @property
    def place(self) -> Place:
        return self.job, self.index


@dataclass(slots=True)
class _Batch:
    members: list[_Member]
    last_step: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What happens before the next step, and which batch takes it."""

    join: tuple[WaitingRow, ...]
    late: tuple[WaitingRow, ...]  # cannot be on time; they wait on until their job leaves
    step: BatchKey | None  # None: nobody has rows


class Scheduler:
    """All rows of one device.

    Args:
        max_rows: images of one batch.
    """

    def __init__(self, max_rows: int, *, turns: Turns | None = None, least_gain: float = LEAST_GAIN) -> None:
        self._max_rows = max_rows
        self._least_gain = least_gain
        self._waiting: dict[BatchKey, dict[Place, _Member]] = {}
        self._batches: dict[BatchKey, _Batch] = {}
        self._limits: dict[BatchKey, int] = {}
        self._turns = turns or Turns()
        self.step_speed = BatchSpeed()
        self.decode_speed = BatchSpeed()

    def enter(self, job: str, index: int, key: BatchKey, *, arrived: float, due: float, stages: int) -> None:
        """An image waits for a place. Args: stages: steps of its batch that it needs, >= 1."""
        member = _Member(job=job, index=index, key=key, arrived=arrived, due=due, stages_left=stages)
        self._waiting.setdefault(key, {})[member.place] = member

    def limit(self, key: BatchKey, rows: int) -> None:
        """A batch of this size has no room for more images than these, >= 1."""
        self._limits[key] = rows

    def limited(self, key: BatchKey) -> bool:
        """Whether a limit was ever said for batches of this size."""
        return key in self._limits

    def most_rows(self, key: BatchKey) -> int:
        """Images that a batch of this size has room for."""
        return min(self._max_rows, self._limits.get(key, self._max_rows))

    def leave(self, job: str) -> None:
        """Forget all images of a job, wherever they are."""
        for waiting in self._waiting.values():
            for place in [place for place in waiting if place[0] == job]:
                del waiting[place]
        for batch in self._batches.values():
            batch.members = [member for member in batch.members if member.job != job]
        self._sweep()

    def rows(self, key: BatchKey) -> int:
        """Images in the batch of a size."""
        batch = self._batches.get(key)
        return len(batch.members) if batch else 0

    def decide(
        self,
        now: float,
        *,
        switch_seconds: Callable[[BatchKey], float] = lambda key: 0.0,
        stepping: Collection[BatchKey] = (),
        loads: Callable[[BatchKey], bool] = lambda key: False,
    ) -> Decision:
        """Let waiting rows in and choose the batch that steps next.

        Args:
            now: seconds of the clock that `arrived` and `due` are of.
            switch_seconds: until the networks that a batch still needs are on the device; 0: they are.
            stepping: batches that can take no further step now: nobody joins them. While it is the turn of one of
                them, others step beside it; nothing is loaded for them.
            loads: whether something is loaded for a batch's next step.
        """
        joined: list[WaitingRow] = []
        late: list[WaitingRow] = []
        for key in [key for key, members in self._waiting.items() if members and key not in stepping]:
            admission = self._admitted(key, now)
            joined.extend(admission.join)
            late.extend(admission.late)
        views = [self._view(key, batch, switch_seconds) for key, batch in self._batches.items()]
        step = self._next(views, now)
        if step in stepping:
            step = self._next([one for one in views if one.key not in stepping and not loads(one.key)], now)
        if step is not None:
            self._batches[step].last_step = now
        return Decision(join=tuple(joined), late=tuple(late), step=step)

    def stepped(self, key: BatchKey) -> tuple[Place, ...]:
        """The batch of a size takes a step; how long it took is told to `measured`, once it is known.

        Returns: images whose last step it is, and who leave.
        """
        members = self._batches[key].members
        for member in members:
            member.stages_left -= 1
        finished = tuple(member.place for member in members if not member.stages_left)
        self._batches[key].members = [member for member in members if member.stages_left]
        self._sweep()
        return finished

    def measured(self, key: BatchKey, rows: int, seconds: float, *, typical: bool = True) -> None:
        """What a step of the batch of a size took.

        Args: typical: False: something was loaded meanwhile, so that the time says nothing about other steps.
        """
        if typical:
            self.step_speed.measured(key, rows, seconds)
        active = {other.model for other in (*self._batches, *self._waiting)} | {key.model}
        self._turns = self._turns.charged(key.model, seconds, active)

    def _next(self, views: Sequence[RunningBatch], now: float) -> BatchKey | None:
        return next_batch(views, now, patience=PATIENCE_SECONDS, guard=GUARD_SECONDS, turns=self._turns)

    def _admitted(self, key: BatchKey, now: float) -> Admission:
        """Let waiting rows of a size into its batch, as many as are worth it."""
        waiting, rows = self._waiting[key], self.rows(key)
        step, decode = self.step_speed.seconds(key, max(rows, 1)), self.decode_speed.seconds(key, 1)
        candidates = [
            WaitingRow(
                job=member.job,
                index=member.index,
                key=key,
                arrived=member.arrived,
                due=member.due,
                seconds_left=member.stages_left * step + decode,
            )
            for member in waiting.values()
        ]
        most = min(rows + len(candidates), self.most_rows(key))
        wanted = most
        if most > rows and self.step_speed.known(key):
            wanted = worthwhile_rows(lambda n: self.step_speed.seconds(key, n), most, least_gain=self._least_gain)
        admission = admit(key, wanted - rows, candidates, now)
        if admission.join:
            batch = self._batches.setdefault(key, _Batch([], now))
            batch.members.extend(waiting.pop((row.job, row.index)) for row in admission.join)
        return admission

    def _view(self, key: BatchKey, batch: _Batch, switch_seconds: Callable[[BatchKey], float]) -> RunningBatch:
        rows = len(batch.members)
        step, decode = self.step_speed.seconds(key, rows), self.decode_speed.seconds(key, 1)
        due, seconds_left, arrived = math.inf, 0.0, math.inf
        for member in batch.members:
            left = member.stages_left * step + decode
            if member.due - left < due - seconds_left:
                due, seconds_left = member.due, left
            arrived = min(arrived, member.arrived)
        return RunningBatch(
            key=key,
            rows=rows,
            room=self.most_rows(key) - rows,
            last_step=batch.last_step,
            due=due,
            seconds_left=seconds_left,
            arrived=arrived,
            switch_seconds=switch_seconds(key),
        )

    def _sweep(self) -> None:
        self._batches = {key: batch for key, batch in self._batches.items() if batch.members}
        self._waiting = {key: members for key, members in self._waiting.items() if members}
