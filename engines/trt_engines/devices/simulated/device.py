"""The simulated card behind the device interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.devices.device import DeviceProperties, Event, Graph, MemoryInfo, Resource, Stream
from trt_engines.devices.memory import Buffer, Place
from trt_engines.devices.operations import Bytes, NetworkOperation, Operation, Work
from trt_engines.devices.simulated.blocks import POISON
from trt_engines.devices.simulated.hazards import (
    CapturedWrongly,
    EventNeverRecorded,
    FreedInFlight,
    GraphAddressChanged,
    GraphContextChanged,
    NotTimed,
    Site,
    WrittenInFlight,
    site,
)
from trt_engines.devices.simulated.memory import SimulatedMemory
from trt_engines.devices.simulated.order import Clock
from trt_engines.devices.simulated.queue import ShuffledQueues, Task
from trt_engines.devices.simulated.timeline import Timeline, Unit
from trt_engines.devices.transfers import copy_work, fill_work
from trt_engines.kernels.kernel import KernelCall

Seconds = Callable[[Operation], float]
"""A cost model: how long the card takes for an operation that it has begun, if nothing else runs."""

Share = Callable[[Operation], float]
"""What an operation keeps busy meanwhile, 0..1: of the card, or of a copy's own engine."""


def free_of_charge(operation: Operation) -> float:
    """The cost model of a card that takes no time."""
    return 0.0


def the_whole_card(operation: Operation) -> float:
    """Every operation fills the card, so that what runs side by side takes as long as one after the other."""
    return 1.0


@dataclass(slots=True)
class _StreamState:
    created: Site
    number: int = 0  # tasks it was ever given
    clock: Clock = field(default_factory=Clock)  # what is done when its next task begins
    last: Task | None = None


@dataclass(frozen=True, slots=True)
class _Mark:
    """What a recorded event stands for."""

    task: Task
    clock: Clock
    recorded: Site


@dataclass(frozen=True, slots=True)
class _Captured:
    """One operation of a graph."""

    work: Work
    where: Site
    state: object  # of what asked for it, then

    def check(self, launched: Site) -> None:
        """Raises: GraphContextChanged."""
        if self.work.state is not None and self.work.state() is not self.state:
            changed = self.work.state()
            raise GraphContextChanged(launched, changed if isinstance(changed, Site) else launched)


@dataclass(slots=True)
class _GraphState:
    captured: Site
    works: list[_Captured] = field(default_factory=list)
    launched: tuple[Stream, int, Site] | None = None  # its last task


class SimulatedDevice:
    """A card on which nothing happens until something waits, and which then does it in a random order.

    Every operation is checked when it is asked for, against everything that is not known to be done, so a hazard is
    found whatever the order; the random order then shows that what is left to it makes no difference.

    Args:
        properties: the card it stands for; its memory is the limit of what can be allocated.
        seed: of the order.
        seconds, share: cost model, see `timeline`.
        submit_seconds: what asking costs the host, each time.
        computes: False: everything is checked and timed, and nothing is computed; what is read back is zeros.
    """

    def __init__(
        self,
        properties: DeviceProperties,
        *,
        seed: int = 0,
        seconds: Seconds = free_of_charge,
        share: Share = the_whole_card,
        submit_seconds: float = 0.0,
        computes: bool = True,
    ) -> None:
        self.properties = properties
        self.clock = 0.0  # seconds: the host's time, which moves when it waits, asks, or is told to
        self._seconds = seconds
        self._share = share
        self._submit_seconds = submit_seconds
        self._computes = computes
        self._memory = SimulatedMemory(properties.memory_bytes, meaningless=POISON if computes else 0)
        self._queues = ShuffledQueues(Random(seed), self._run)
        self._timeline = Timeline()
        self._streams: dict[Stream, _StreamState] = {}
        self._events: dict[Event, _Mark | Site] = {}  # a site: where it was created, and nothing recorded it
        self._graphs: dict[Graph, _GraphState] = {}
        self._known = Clock()  # to the host
        self._capture: tuple[Stream, _GraphState] | None = None
        self._launched: dict[Task, tuple[_Captured, Site]] = {}  # of graphs
        self._sources: dict[Task, tuple[Site, list[tuple[Buffer, Bytes]]]] = {}
        self._timed: set[Event] = set()
        self._handles = count(1)

    @property
    def busy_seconds(self) -> Mapping[Unit, float]:
        """Seconds in which each part of the card was busy, as far as the clock is settled."""
        return self._timeline.busy

    def advance(self, seconds: float) -> None:
        """Let the host's time pass: it did something else."""
        self.clock += seconds

    def memory_info(self) -> MemoryInfo:
        return MemoryInfo(free=self._memory.capacity - self._memory.used, total=self._memory.capacity)

    def allocate(self, size: int, place: Place = Place.DEVICE) -> Buffer:
        where = site(f"allocating {size} bytes of {place.value} memory")
        self._not_while_capturing(where)
        return self._memory.allocate(size, place, where)

    def free(self, resource: Resource) -> None:
        match resource:
            case Graph():
                self._free_graph(resource, site(f"freeing graph {resource.label!r}"))
            case Event():
                del self._events[resource]
                self._timed.discard(resource)
            case Stream():
                self._free_stream(resource, site(f"freeing stream {resource.label!r}"))
            case Buffer():
                where = site(f"freeing {resource.size} bytes of {resource.place.value} memory")
                self._not_while_capturing(where)
                self._memory.free(resource, self._known, where)

    def view(
        self, buffer: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], *, write: bool = False
    ) -> NDArray[Any]:
        if buffer.place is not Place.HOST:
            raise ValueError("only host memory can be seen by the host")
        where = site("writing by the host" if write else "reading by the host")
        check = self._memory.host_writes if write else self._memory.host_reads
        check(buffer, self._known, where)
        array = self._memory.bytes(buffer).view(dtype).reshape(shape)
        array.flags.writeable = write
        return array

    def create_stream(self, label: str) -> Stream:
        stream = Stream(next(self._handles), label)
        self._streams[stream] = _StreamState(site(f"creating stream {label!r}"))
        return stream

    def create_event(self, label: str, *, timed: bool = False) -> Event:
        event = Event(next(self._handles), label)
        if timed:
            self._timed.add(event)
        self._events[event] = site(f"creating event {label!r}")
        return event

    def record(self, event: Event, stream: Stream) -> None:
        where = site(f"recording event {event.label!r}")
        self._not_while_capturing(where)
        task = self._push(stream)
        self._events[event] = _Mark(task, self._streams[stream].clock, where)

    def wait(self, stream: Stream, event: Event) -> None:
        where = site(f"waiting for event {event.label!r} in stream {stream.label!r}")
        self._not_while_capturing(where)
        mark = self._mark(event, where)
        self._push(stream, after=mark.task)
        state = self._streams[stream]
        state.clock = state.clock.merged(mark.clock)

    def synchronize(self, target: Stream | Event) -> None:
        where = site(f"waiting by the host for {target.label!r}")
        self._not_while_capturing(where)
        if isinstance(target, Event):
            mark = self._mark(target, where)
            self._finish(mark.task, mark.clock)
        else:
            state = self._streams[target]
            if state.last is not None:
                self._finish(state.last, state.clock)

    def done(self, event: Event) -> bool:
        mark = self._mark(event, site(f"asking for event {event.label!r}"))
        self._timeline.settle_until(self.clock)
        if mark.task.end is None or mark.task.end > self.clock:
            return False
        self._finish(mark.task, mark.clock)
        return True

    def elapsed(self, start: Event, end: Event) -> float:
        """Raises: NotTimed: an event was not made for it, or is not known to be done."""
        return self._ended(end) - self._ended(start)

    def copy(self, destination: Buffer, source: Buffer, stream: Stream) -> None:
        work = copy_work(destination, source)
        where = f"copying {source.size} bytes from {source.place.value} to {destination.place.value}"
        self._enqueue(work, stream, site(f"{where} in stream {stream.label!r}"))

    def fill(self, buffer: Buffer, value: int, stream: Stream) -> None:
        self._enqueue(fill_work(buffer, value), stream, site(f"filling in stream {stream.label!r}"))

    def launch(self, call: KernelCall, stream: Stream) -> None:
        self._enqueue(call.work(), stream, site(f"kernel {call.kernel.name} in stream {stream.label!r}"))

    def enqueue(self, work: Work, stream: Stream) -> None:
        self._enqueue(work, stream, site(f"{_named(work.operation)} in stream {stream.label!r}"))

    def capture(self, stream: Stream, work: Callable[[], None], label: str) -> Graph:
        where = site(f"capturing graph {label!r}")
        self._not_while_capturing(where)
        state = _GraphState(where)
        self._capture = stream, state
        try:
            work()
        finally:
            self._capture = None
        graph = Graph(next(self._handles), label)
        self._graphs[graph] = state
        return graph

    def launch_graph(self, graph: Graph, stream: Stream) -> None:
        where = site(f"launching graph {graph.label!r} in stream {stream.label!r}")
        self._not_while_capturing(where)
        state = self._graphs[graph]
        for one in state.works:
            one.check(where)
            for buffer in (*one.work.reads, *one.work.writes):
                if gone := self._memory.freed(buffer):
                    raise GraphAddressChanged(gone, where)
        for one in state.works:
            what = f"{one.where.what} (captured), {where.what} at {where.file}:{where.line}"
            launched = replace(one.where, what=what)
            if (task := self._enqueue(one.work, stream, launched)) is not None:
                self._launched[task] = one, launched
        state.launched = stream, self._streams[stream].number, where

    def close(self) -> None:
        for stream in tuple(self._streams):
            self.synchronize(stream)

    def _enqueue(self, work: Work, stream: Stream, where: Site) -> Task | None:
        """Returns: None: it was captured."""
        if self._capture is not None and self._capture[0] is stream:
            for buffer in (*work.reads, *work.writes):
                self._memory.block(buffer, where)
            self._capture[1].works.append(_Captured(work, where, work.state() if work.state is not None else None))
            return None
        state = self._streams[stream]
        self._memory.use(work.reads, work.writes, stream, state.number + 1, state.clock.merged(self._known), where)
        task = self._push(stream, work)
        sources = [(one, self._memory.bytes(one).copy()) for one in work.reads if self._host_gave(one, where)]
        if sources:
            self._sources[task] = where, sources
        return task

    def _push(self, stream: Stream, work: Work | None = None, after: Task | None = None) -> Task:
        self.clock += self._submit_seconds
        state = self._streams[stream]
        state.number += 1
        state.clock = state.clock.merged(self._known).advanced(stream, state.number)
        task = Task(
            stream=stream,
            number=state.number,
            submitted=self.clock,
            seconds=self._seconds(work.operation) if work is not None else 0.0,
            share=self._share(work.operation) if work is not None else 0.0,
            work=work,
            after=after,
        )
        state.last = task
        self._queues.push(task)
        self._timeline.push(task)
        return task

    def _run(self, task: Task) -> None:
        if task in self._launched:
            captured, launched = self._launched.pop(task)
            captured.check(launched)
        where, sources = self._sources.pop(task, (None, []))
        for buffer, promised in sources:
            if where is not None and not np.array_equal(self._memory.bytes(buffer), promised):
                changed = self._memory.seen(buffer)
                raise WrittenInFlight(where, replace(changed, what=f"the array of {changed.what}, changed later,"))
        if task.work is not None and self._computes:
            task.work.run(self._memory.bytes)

    def _host_gave(self, buffer: Buffer, where: Site) -> bool:
        """Whether it is host memory whose content is the host's, and not what a stream is still to write."""
        block = self._memory.block(buffer, where)
        return buffer.place is Place.HOST and block.conflict(buffer, False, self._known) is None

    def _finish(self, task: Task, clock: Clock) -> None:
        self.clock = max(self.clock, self._timeline.settle(task))
        self._queues.run_until(task)
        self._known = self._known.merged(clock)
        self._memory.forget(self._known)

    def _mark(self, event: Event, where: Site) -> _Mark:
        mark = self._events[event]
        if isinstance(mark, Site):
            raise EventNeverRecorded(mark, where)
        return mark

    def _ended(self, event: Event) -> float:
        where = site(f"asking when event {event.label!r} was done")
        mark = self._mark(event, where)
        task = mark.task
        if event not in self._timed or task.end is None or not self._known.knows(task.stream, task.number):
            raise NotTimed(mark.recorded, where)
        return task.end

    def _free_graph(self, graph: Graph, where: Site) -> None:
        state = self._graphs[graph]
        if state.launched is not None:
            stream, number, launched = state.launched
            if not self._known.knows(stream, number):
                raise FreedInFlight(launched, where)
        del self._graphs[graph]

    def _free_stream(self, stream: Stream, where: Site) -> None:
        state = self._streams[stream]
        if not self._known.knows(stream, state.number):
            raise FreedInFlight(state.created, where)
        del self._streams[stream]

    def _not_while_capturing(self, where: Site) -> None:
        if self._capture is not None:
            raise CapturedWrongly(self._capture[1].captured, where)


def _named(operation: Operation) -> str:
    match operation:
        case NetworkOperation():
            return f"running {operation.rows} rows of {operation.engine}"
        case _:
            return type(operation).__name__
