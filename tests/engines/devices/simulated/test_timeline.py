"""The clock of a card that several streams share: nothing is lost, nothing is won."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from random import Random

import pytest

from trt_engines.devices.device import Stream
from trt_engines.devices.operations import CopyOperation, Direction, FillOperation, Operation, Work
from trt_engines.devices.simulated.queue import Task
from trt_engines.devices.simulated.timeline import Timeline, Unit

SEEDS = range(100)
OPERATIONS: dict[Unit, Operation] = {
    Unit.COMPUTE: FillOperation(size=1),
    Unit.UPLOAD: CopyOperation(direction=Direction.UPLOAD, size=1),
    Unit.DOWNLOAD: CopyOperation(direction=Direction.DOWNLOAD, size=1),
}


def a_task(stream: Stream, seconds: float, share: float = 1.0, unit: Unit = Unit.COMPUTE, **more: object) -> Task:
    work = Work(operation=OPERATIONS[unit], reads=(), writes=(), run=lambda bytes_of: None)
    settings = {"number": 1, "submitted": 0.0, "work": work, "stream": stream, "seconds": seconds, "share": share}
    return Task(**(settings | more))  # type: ignore[arg-type]


def streams(count: int) -> list[Stream]:
    return [Stream(number, f"stream {number}") for number in range(count)]


class Program:
    """Random tasks of a few streams, some waiting for marks of others; the host looks at the clock now and then."""

    def __init__(self, seed: int) -> None:
        random = Random(seed)
        self.timeline, self.tasks = Timeline(), list[tuple[Task, Unit]]()
        self.marks: list[Task] = []
        self.host = 0.0
        self.looks: list[tuple[float, dict[Unit, float]]] = []
        own = streams(random.randint(1, 4))
        for _ in range(random.randint(1, 40)):
            stream, kind = random.choice(own), random.random()
            if kind < 0.6:
                unit = random.choice(list(Unit))
                seconds, share = random.choice((0.0, random.uniform(0.1, 3))), random.uniform(0.05, 1)
                self.push(a_task(stream, seconds, share, unit, submitted=self.host), unit)
            elif kind < 0.7:
                self.marks.append(self.mark(stream))
            elif kind < 0.8 and self.marks:
                self.mark(stream, after=random.choice(self.marks))
            elif kind < 0.9:
                self.host += random.uniform(0, 2)
                self.timeline.settle_until(self.host)
            else:
                self.host += random.uniform(0, 0.1)
            self.look()
        for task, _ in self.tasks:
            self.host = max(self.host, self.timeline.settle(task))
            self.look()
        self.timeline.settle_until(self.host)

    def look(self) -> None:
        self.looks.append((self.timeline.now, dict(self.timeline.busy)))

    def mark(self, stream: Stream, after: Task | None = None) -> Task:
        task = a_task(stream, 0.0, 0.0, submitted=self.host, work=None, after=after)
        self.timeline.push(task)
        return task

    def push(self, task: Task, unit: Unit) -> None:
        self.timeline.push(task)
        self.tasks.append((task, unit))

    def ended(self) -> Iterable[tuple[Task, float]]:
        for task, _ in self.tasks:
            assert task.end is not None
            yield task, task.end


@pytest.mark.parametrize("seed", SEEDS)
def test_work_is_conserved_and_no_unit_is_ever_more_than_busy(seed: int) -> None:
    program = Program(seed)

    work = dict.fromkeys(Unit, 0.0)
    for task, unit in program.tasks:
        work[unit] += task.seconds * task.share
    assert program.timeline.busy == pytest.approx(work)
    for (began, before), (ended, after) in pairwise(program.looks):
        assert all(after[unit] - before[unit] <= ended - began + 1e-9 for unit in Unit)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_faster_than_alone_and_streams_keep_their_order(seed: int) -> None:
    before: dict[Stream, float] = defaultdict(float)
    for task, end in Program(seed).ended():
        assert end >= max(before[task.stream], task.submitted) + task.seconds - 1e-9
        before[task.stream] = end


@pytest.mark.parametrize("seed", SEEDS)
def test_the_clock_is_never_ahead_of_a_host_that_has_waited_for_everything(seed: int) -> None:
    program = Program(seed)

    assert program.timeline.now == program.host


def test_what_leaves_room_for_the_other_overlaps_and_what_does_not_shares() -> None:
    for share, end in ((0.5, 1.0), (1.0, 2.0), (0.75, 1.5)):
        timeline = Timeline()
        pair = [a_task(stream, 1.0, share) for stream in streams(2)]
        for task in pair:
            timeline.push(task)

        assert [timeline.settle(task) for task in pair] == [pytest.approx(end)] * 2


def test_a_short_one_beside_a_long_one_leaves_it_the_whole_card_again() -> None:
    timeline, (one, other) = Timeline(), streams(2)
    long, short = a_task(one, 3.0), a_task(other, 1.0)
    timeline.push(long)
    timeline.push(short)

    assert timeline.settle(short) == 2.0
    assert timeline.settle(long) == 4.0


def test_copies_each_way_slow_neither_each_other_nor_what_computes() -> None:
    timeline = Timeline()
    trio = [a_task(stream, 1.0, 1.0, unit) for stream, unit in zip(streams(3), Unit, strict=True)]
    for task in trio:
        timeline.push(task)

    assert [timeline.settle(task) for task in trio] == [1.0] * 3


def test_time_passes_to_a_look_at_the_clock_without_losing_work() -> None:
    timeline, (one, other) = Timeline(), streams(2)
    first, second = a_task(one, 1.0), a_task(other, 1.0, submitted=0.4)
    timeline.push(first)
    timeline.settle_until(0.4)
    timeline.push(second)

    assert timeline.settle(first) == pytest.approx(0.4 + 2 * 0.6)
    assert timeline.settle(second) == pytest.approx(2.0)


def test_nothing_can_be_asked_for_in_the_past() -> None:
    timeline, (one,) = Timeline(), streams(1)
    timeline.settle_until(1.0)

    with pytest.raises(ValueError, match=r"asked for at 0.5 s, and the card's clock is at 1.0 s"):
        timeline.push(a_task(one, 1.0, submitted=0.5))
