"""What a device process has done since it started."""

from __future__ import annotations

from trt_worker import frames
from trt_worker.device.steps_under_way import MeasuredStep


class RunningTotals:
    """Sums over steps that are done."""

    def __init__(self) -> None:
        self._calls = self._rows = 0
        self._engine_seconds = self._loop_seconds = self._megapixel_steps = 0.0

    def add(self, step: MeasuredStep) -> None:
        """One more step is done."""
        images = len(step.rows)
        self._calls += 1
        self._rows += images
        self._engine_seconds += step.engine_seconds
        self._loop_seconds += step.device_seconds
        self._megapixel_steps += step.key.width * step.key.height / 1e6 * images

    @property
    def frame(self) -> frames.Totals:
        """As the supervisor is told."""
        return frames.Totals(
            calls=self._calls,
            rows=self._rows,
            engine_seconds=self._engine_seconds,
            loop_seconds=self._loop_seconds,
            megapixel_steps=self._megapixel_steps,
        )
