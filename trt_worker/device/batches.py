"""The batches of a device: one for each model, backend and size whose images are under way or were a moment ago."""

from __future__ import annotations

from collections.abc import Callable

from trt_engines.backend import Engine
from trt_worker.batch.admission import BatchKey
from trt_worker.device.step_batch import Step, StepBatch
from trt_worker.device.steps_under_way import MeasuredStep, StepsUnderWay

IDLE = 4
"""Batches without rows that keep their memory: making it anew would hold up the device."""


class Batches:
    """Makes batches, closes those that nobody needs, and knows which steps are under way.

    Args:
        make: a batch of a size for so many images. Raises: OutOfMemory, DeviceUnavailable.
        closed: told the size of a batch whose memory was given back.
        clock: seconds.
    """

    def __init__(
        self,
        make: Callable[[BatchKey, int], StepBatch],
        closed: Callable[[BatchKey], None],
        clock: Callable[[], float],
    ) -> None:
        self._make = make
        self._closed = closed
        self._batches: dict[BatchKey, StepBatch] = {}
        self._under_way = StepsUnderWay(clock)

    @property
    def under_way(self) -> bool:
        """Whether any step is."""
        return bool(self._under_way)

    @property
    def with_rows(self) -> bool:
        """Whether any batch has rows."""
        return any(batch.rows for batch in self._batches.values())

    def get(self, key: BatchKey) -> StepBatch | None:
        """The batch of a size, if there is one with rows."""
        batch = self._batches.get(key)
        return batch if batch is not None and batch.rows else None

    def open(self, key: BatchKey, images: int) -> StepBatch:
        """The batch of a size with rows, or one for so many images. Raises: OutOfMemory, DeviceUnavailable."""
        batch = self._batches.get(key)
        if batch is not None and (batch.rows or batch.capacity == images):
            self._batches[key] = self._batches.pop(key)  # last, as the one that was used last
            return batch
        if batch is not None:
            self.close(key)
        for oldest in self._idle(None)[:-IDLE]:
            self.close(oldest)
        batch = self._batches[key] = self._make(key, images)
        return batch

    def leave(self, job: str) -> None:
        """All rows of a job leave, whatever batch they are in."""
        for batch in self._batches.values():
            batch.leave(job)

    def forget(self, engine: Engine) -> None:
        """An engine is closed: rows that it holds find it again, or another, at their next step."""
        for batch in self._batches.values():
            batch.forget(engine)

    def full(self) -> set[BatchKey]:
        """Batches whose stream has as many steps as the host runs ahead."""
        return {key for key, batch in self._batches.items() if self._under_way.full(batch.stream)}

    def stepped(self, batch: StepBatch, step: Step, *, began: float, loads: int) -> None:
        """A step was put into a batch's stream. Args: see `StepsUnderWay.add`."""
        self._under_way.add(batch.stream, batch.key, step, began=began, loads=loads)

    def finish(self, batch: StepBatch) -> None:
        """Wait for all steps in a batch's stream; `done` tells of them."""
        self._under_way.finish(batch.stream)

    def wait(self) -> bool:
        """Wait for the step that is likely to be done first. Returns: False: none is under way."""
        if self._under_way:
            self._under_way.wait()
            return True
        return False

    def done(self) -> list[MeasuredStep]:
        """Steps that are done, each told once. Never waits."""
        return self._under_way.done()

    def close(self, key: BatchKey) -> None:
        """Give back a batch's memory; its last steps are waited for, and `done` tells of them."""
        batch = self._batches.pop(key)
        self._under_way.finish(batch.stream)
        batch.close()
        self._closed(key)

    def close_idle(self, *, keep: StepBatch | None) -> int:
        """Give back what batches without rows hold. Args: keep: one that steps. Returns: how many were closed."""
        idle = self._idle(keep)
        for key in idle:
            self.close(key)
        return len(idle)

    def _idle(self, keep: StepBatch | None) -> list[BatchKey]:
        return [key for key, batch in self._batches.items() if not batch.rows and batch is not keep]
