"""Steps that were put into streams and are not known to be done; what each took is measured when it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from trt_engines.devices.device import Stream
from trt_worker.batch.admission import BatchKey
from trt_worker.device.row import Row
from trt_worker.device.step_batch import STEPS_AHEAD


class TimedStep(Protocol):
    """What is asked of a step, see `step_batch.Step`."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """That took part."""

    @property
    def done(self) -> bool:
        """Never waits."""

    def wait(self) -> None:
        """Until it is done."""

    def engine_seconds(self) -> float:
        """Once it is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """One step that is done."""

    key: BatchKey
    rows: tuple[Row, ...]
    seconds: float  # since its stream was free for it
    device_seconds: float  # its share of the time in which any stream had a step; shares add up to that time
    engine_seconds: float  # of its share, what its engine calls took at most
    loads: int  # as it was told when it began


@dataclass(frozen=True, slots=True, kw_only=True)
class _UnderWay:
    key: BatchKey
    step: TimedStep
    began: float
    loads: int


class StepsUnderWay:
    """All steps of a device. Args: clock: seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._streams: dict[Stream, deque[_UnderWay]] = {}
        self._stream_free: dict[Stream, float] = {}  # since when, on the clock
        self._took: dict[BatchKey, float] = {}  # seconds of the latest step of a size, since its stream was free for it
        self._counted = 0.0  # all time before this is in somebody's share
        self._finished: list[MeasuredStep] = []  # that are not told yet

    def __bool__(self) -> bool:
        return any(self._streams.values())

    def full(self, stream: Stream) -> bool:
        """Whether the stream has as many steps as the host runs ahead."""
        return len(self._streams.get(stream, ())) >= STEPS_AHEAD

    def add(self, stream: Stream, key: BatchKey, step: TimedStep, *, began: float, loads: int) -> None:
        """A step was put into a stream. Args: began: when the host began to; loads: engines loaded until then."""
        under_way = _UnderWay(key=key, step=step, began=began, loads=loads)
        self._streams.setdefault(stream, deque()).append(under_way)

    def wait(self) -> None:
        """Wait for the step that is likely to be done first: then its stream takes another.

        A stream of short steps would run dry while the host waits for another's long one. Streams know of no waiting
        for any of several, so what a size took the last time says which it is.
        """
        first = [(stream, steps[0]) for stream, steps in self._streams.items() if steps]
        _, soonest = min(first, key=lambda one: self._likely_end(*one))
        soonest.step.wait()

    def finish(self, stream: Stream) -> None:
        """Wait for all steps of a stream; `done` tells of them."""
        steps = self._streams.get(stream, deque())
        while steps:
            steps[0].step.wait()
            self._finished.append(self._measured(stream, steps))

    def done(self) -> list[MeasuredStep]:
        """Steps that are done, each told once. Never waits."""
        measured, self._finished = self._finished, []
        for stream, steps in self._streams.items():
            while steps and steps[0].step.done:
                measured.append(self._measured(stream, steps))
        return measured

    def _likely_end(self, stream: Stream, one: _UnderWay) -> float:
        return max(one.began, self._stream_free.get(stream, 0.0)) + self._took.get(one.key, 0.0)

    def _measured(self, stream: Stream, steps: deque[_UnderWay]) -> MeasuredStep:
        now = self._clock()
        first = min(one.began for others in self._streams.values() for one in others)
        one = steps.popleft()
        seconds = now - max(one.began, self._stream_free.get(stream, 0.0))
        self._took[one.key] = seconds
        share = now - max(first, self._counted)
        self._stream_free[stream] = self._counted = now
        return MeasuredStep(
            key=one.key,
            rows=one.step.rows,
            seconds=seconds,
            device_seconds=share,
            engine_seconds=min(one.step.engine_seconds(), share),
            loads=one.loads,
        )
