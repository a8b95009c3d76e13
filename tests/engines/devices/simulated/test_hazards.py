"""Every hazard is found, in the call that brings it about, and names both places."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trt_engines.devices.memory import Place
from trt_engines.devices.simulated import hazards
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import EngineError, OutOfMemory


def here() -> int:
    """The line of the caller."""
    return sys._getframe(1).f_lineno


def places(error: hazards.Hazard | hazards.CardFull) -> tuple[int, int]:
    assert error.first.file == error.second.file == __file__
    assert f"{__file__}:{error.first.line}" in str(error)
    assert f"{__file__}:{error.second.line}" in str(error)
    return error.first.line, error.second.line


@pytest.fixture
def kit(card: SimulatedDevice, floats: Any) -> Any:
    return floats(card)


def test_two_streams_that_nothing_orders_may_not_write_and_read_the_same_bytes(card: SimulatedDevice, kit: Any) -> None:
    one, two, memory, target = card.create_stream("one"), card.create_stream("two"), kit.device_memory(), kit.host()
    card.fill(memory, 0, one)
    first = here() - 1

    with pytest.raises(hazards.Race) as raised:
        card.copy(target, memory, two)

    assert places(raised.value) == (first, here() - 2)


def test_a_write_after_another_streams_read_is_a_race_too(card: SimulatedDevice, kit: Any) -> None:
    one, two, memory, target = card.create_stream("one"), card.create_stream("two"), kit.device_memory(), kit.host()
    card.fill(memory, 0, one)
    card.synchronize(one)
    card.copy(target, memory, one)

    with pytest.raises(hazards.Race):
        card.fill(memory, 1, two)


def test_a_read_in_order_does_not_hide_the_write_before_it(card: SimulatedDevice, kit: Any) -> None:
    one, two, memory = card.create_stream("one"), card.create_stream("two"), kit.device_memory()
    card.fill(memory, 0, one)
    card.copy(kit.host(), memory, one)

    with pytest.raises(hazards.Race, match="with filling in stream 'one'"):
        card.copy(kit.host(), memory, two)


def test_a_read_does_not_hide_another_streams_read_from_a_later_write(card: SimulatedDevice, kit: Any) -> None:
    one, two, memory = card.create_stream("one"), card.create_stream("two"), kit.device_memory()
    card.fill(memory, 0, one)
    card.synchronize(one)
    card.copy(kit.host(), memory, one)
    card.copy(kit.host(), memory, two)

    with pytest.raises(hazards.Race, match="to host in stream 'one'"):
        card.fill(memory, 1, two)


def test_an_event_recorded_too_early_does_not_order(card: SimulatedDevice, kit: Any) -> None:
    one, two, memory, target = card.create_stream("one"), card.create_stream("two"), kit.device_memory(), kit.host()
    event = card.create_event("early")
    card.record(event, one)
    card.fill(memory, 0, one)
    card.wait(two, event)

    with pytest.raises(hazards.Race):
        card.copy(target, memory, two)


def test_order_reaches_through_a_third_stream_and_disjoint_bytes_need_none(card: SimulatedDevice, kit: Any) -> None:
    one, two, three = (card.create_stream(name) for name in ("one", "two", "three"))
    memory, target = kit.device_memory(), kit.host()
    first, second = card.create_event("first"), card.create_event("second")
    card.fill(memory.part(0, 8), 0, one)
    card.fill(memory.part(8, 8), 0, two)
    card.record(first, one)
    card.wait(two, first)
    card.record(second, two)
    card.wait(three, second)

    card.copy(target, memory, three)
    card.synchronize(three)

    assert kit.read(target) == [0, 0, 0, 0]


def test_the_host_may_not_read_before_it_waited(card: SimulatedDevice, kit: Any) -> None:
    stream, memory, target = card.create_stream("work"), kit.device_memory(), kit.host()
    card.fill(memory, 0, stream)
    card.copy(target, memory, stream)
    first = here() - 1

    with pytest.raises(hazards.ReadBeforeWait) as raised:
        kit.device.view(target, np.dtype(np.float32), (4,))

    assert places(raised.value) == (first, here() - 2)


def test_an_array_kept_from_before_a_download_shows_poison_until_the_host_waits(
    card: SimulatedDevice, kit: Any
) -> None:
    stream, memory, target = card.create_stream("work"), kit.device_memory(), kit.host(1, 2, 3, 4)
    kept = card.view(target, np.dtype(np.float32), (4,))
    card.fill(memory, 0, stream)

    card.copy(target, memory, stream)

    assert np.isnan(kept).all()
    card.synchronize(stream)
    assert not kept.any()


def test_the_host_may_not_write_what_a_stream_still_reads(card: SimulatedDevice, kit: Any) -> None:
    stream, memory, source = card.create_stream("work"), kit.device_memory(), kit.host(1, 2, 3, 4)
    card.copy(memory, source, stream)
    first = here() - 1

    with pytest.raises(hazards.WrittenInFlight) as raised:
        card.view(source, np.dtype(np.float32), (4,), write=True)

    assert places(raised.value) == (first, here() - 2)


def test_a_write_through_an_array_kept_from_before_is_found_when_the_copy_runs(card: SimulatedDevice, kit: Any) -> None:
    stream, memory, source = card.create_stream("work"), kit.device_memory(), card.allocate(16, Place.HOST)
    array = card.view(source, np.dtype(np.float32), (4,), write=True)
    second = here() - 1
    array[:] = 1
    card.copy(memory, source, stream)
    first = here() - 1
    array[0] = 2

    with pytest.raises(hazards.WrittenInFlight) as raised:
        card.synchronize(stream)

    assert places(raised.value) == (first, second)


def test_memory_in_flight_is_not_freed(card: SimulatedDevice, kit: Any) -> None:
    stream, memory = card.create_stream("work"), kit.device_memory()
    card.fill(memory, 0, stream)
    first = here() - 1

    with pytest.raises(hazards.FreedInFlight) as raised:
        card.free(memory)

    assert places(raised.value) == (first, here() - 2)


def test_a_graph_in_flight_is_not_freed(card: SimulatedDevice, kit: Any) -> None:
    stream, memory = card.create_stream("work"), kit.device_memory()
    graph = card.capture(stream, lambda: card.fill(memory, 0, stream), "fill")
    card.launch_graph(graph, stream)
    first = here() - 1

    with pytest.raises(hazards.FreedInFlight) as raised:
        card.free(graph)

    assert places(raised.value) == (first, here() - 2)


def test_a_stream_with_work_in_flight_is_not_freed(card: SimulatedDevice, kit: Any) -> None:
    stream, memory = card.create_stream("work"), kit.device_memory()
    card.fill(memory, 0, stream)

    with pytest.raises(hazards.FreedInFlight, match="freeing stream 'work'"):
        card.free(stream)

    card.synchronize(stream)
    card.free(stream)


def test_memory_is_freed_once(card: SimulatedDevice, kit: Any) -> None:
    memory = kit.device_memory()
    card.free(memory)
    first = here() - 1

    with pytest.raises(hazards.UsedAfterFree) as raised:
        card.free(memory)

    assert places(raised.value) == (first, here() - 2)


def test_memory_is_not_used_after_it_was_freed(card: SimulatedDevice, kit: Any) -> None:
    stream, memory = card.create_stream("work"), kit.device_memory()
    card.free(memory)

    with pytest.raises(hazards.UsedAfterFree):
        card.fill(memory, 0, stream)


def test_what_nothing_has_written_is_not_read(card: SimulatedDevice, kit: Any) -> None:
    stream, target = card.create_stream("work"), kit.host()
    memory = card.allocate(16)
    first = here() - 1
    card.fill(memory.part(0, 12), 0, stream)

    with pytest.raises(hazards.NeverWritten) as raised:
        card.copy(target, memory, stream)

    assert places(raised.value) == (first, here() - 2)
    with pytest.raises(hazards.NeverWritten):
        kit.read(target)


def test_memory_means_nothing_when_it_is_allocated_and_after_it_was_freed(card: SimulatedDevice, kit: Any) -> None:
    source = card.allocate(16, Place.HOST)
    array = card.view(source, np.dtype(np.float16), (8,), write=True)

    assert np.isnan(array).all()
    array[:] = 1
    card.free(source)
    assert np.isnan(array).all()


def test_a_graph_whose_memory_moved_is_not_launched(card: SimulatedDevice, kit: Any) -> None:
    stream, memory = card.create_stream("work"), kit.device_memory()
    graph = card.capture(stream, lambda: card.fill(memory, 0, stream), "fill")
    card.free(memory)
    first = here() - 1

    with pytest.raises(hazards.GraphAddressChanged) as raised:
        card.launch_graph(graph, stream)

    assert places(raised.value) == (first, here() - 2)


def test_a_graph_that_races_is_found_where_it_is_launched(card: SimulatedDevice, kit: Any) -> None:
    one, two, memory = card.create_stream("one"), card.create_stream("two"), kit.device_memory()
    graph = card.capture(one, lambda: card.fill(memory, 0, one), "fill")
    card.launch_graph(graph, one)

    with pytest.raises(hazards.Race, match=f"launching graph 'fill' in stream 'two' at {__file__}"):
        card.launch_graph(graph, two)


@pytest.mark.parametrize(
    "act",
    [
        lambda card, stream, memory: card.allocate(4),
        lambda card, stream, memory: card.free(memory),
        lambda card, stream, memory: card.synchronize(stream),
        lambda card, stream, memory: card.record(card.create_event("e"), stream),
    ],
    ids=["allocate", "free", "synchronize", "record"],
)
def test_what_a_card_cannot_capture_is_refused(
    card: SimulatedDevice, kit: Any, act: Callable[[Any, Any, Any], None]
) -> None:
    stream, memory = card.create_stream("work"), kit.device_memory()

    with pytest.raises(hazards.CapturedWrongly) as raised:
        card.capture(stream, lambda: act(card, stream, memory), "graph")

    assert places(raised.value)[0] == here() - 2
    card.fill(memory, 0, stream)  # the capture has ended


def test_an_event_that_nothing_recorded_is_not_waited_for(card: SimulatedDevice) -> None:
    stream, event = card.create_stream("work"), card.create_event("never")
    first = here() - 1

    for wait in (lambda: card.wait(stream, event), lambda: card.synchronize(event), lambda: card.done(event)):
        with pytest.raises(hazards.EventNeverRecorded) as raised:
            wait()
        assert places(raised.value)[0] == first


@pytest.mark.parametrize("timed", [True, False])
def test_the_time_of_an_event_without_one_is_not_told(card: SimulatedDevice, timed: bool) -> None:
    stream, event = card.create_stream("work"), card.create_event("done", timed=timed)
    card.record(event, stream)
    first = here() - 1
    if not timed:
        card.synchronize(event)

    with pytest.raises(hazards.NotTimed) as raised:
        card.elapsed(event, event)
    assert places(raised.value)[0] == first


def test_more_than_the_card_has_is_out_of_memory_as_on_a_card(card: SimulatedDevice) -> None:
    block = card.allocate(card.properties.memory_bytes - 512)
    first = here() - 1

    with pytest.raises(hazards.CardFull) as raised:
        card.allocate(513)

    assert places(raised.value) == (first, here() - 2)
    assert isinstance(raised.value, OutOfMemory)
    assert card.memory_info().free == 512
    card.free(block)
    assert card.memory_info().free == card.properties.memory_bytes


def test_no_failover_takes_a_hazard_for_an_engine_that_failed() -> None:
    assert not issubclass(hazards.Hazard, EngineError)


def test_gigabytes_that_nothing_touches_cost_nothing(make_card: Any) -> None:
    properties = make_card().properties
    card = SimulatedDevice(type(properties)(name="big", sm=90, memory_bytes=80 << 30, multiprocessors=132))

    card.allocate(79 << 30)

    assert card.memory_info().free == 1 << 30
