"""The simulated card's clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trt_engines.devices.memory import Buffer, Place
from trt_engines.devices.operations import CopyOperation, Direction, Operation
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.devices.simulated.hazards import NeverWritten, Race
from trt_engines.devices.simulated.timeline import Unit


def seconds(operation: Operation) -> float:
    """A second for every upload and download, ten for what the card computes."""
    match operation:
        case CopyOperation(direction=Direction.UPLOAD | Direction.DOWNLOAD):
            return 1.0
        case _:
            return 10.0


@pytest.fixture
def timed(make_card: Callable[..., SimulatedDevice]) -> SimulatedDevice:
    return make_card(seconds=seconds)


def fill(card: SimulatedDevice, stream: Any) -> Buffer:
    memory = card.allocate(16)
    card.fill(memory, 0, stream)
    return memory


def test_asking_takes_no_time_and_waiting_takes_as_long_as_the_work(timed: SimulatedDevice) -> None:
    stream = timed.create_stream("work")

    fill(timed, stream)
    fill(timed, stream)
    assert timed.clock == 0

    timed.synchronize(stream)
    assert timed.clock == 20


def test_streams_share_the_part_that_computes_and_copy_beside_it(timed: SimulatedDevice) -> None:
    one, two, copies = (timed.create_stream(name) for name in ("one", "two", "copies"))
    done = fill(timed, copies)
    timed.synchronize(copies)
    began = timed.clock

    fill(timed, one)
    fill(timed, two)
    for _ in range(5):
        timed.copy(timed.allocate(16, Place.HOST), done, copies)
    timed.synchronize(copies)
    assert timed.clock == began + 5

    timed.synchronize(one)
    timed.synchronize(two)
    assert timed.clock == began + 20
    assert timed.busy_seconds == {Unit.COMPUTE: 30, Unit.UPLOAD: 0, Unit.DOWNLOAD: 5}


def test_what_keeps_half_of_the_card_busy_runs_beside_its_like_as_fast_as_alone(
    make_card: Callable[..., SimulatedDevice],
) -> None:
    card = make_card(seconds=seconds, share=lambda operation: 0.5)
    one, two = card.create_stream("one"), card.create_stream("two")

    fill(card, one)
    fill(card, two)
    card.synchronize(one)
    card.synchronize(two)

    assert card.clock == 10


def test_a_stream_that_waits_begins_when_the_event_is_reached(timed: SimulatedDevice) -> None:
    compute, copies, ready = timed.create_stream("compute"), timed.create_stream("copies"), timed.create_event("ready")
    memory, target = fill(timed, compute), timed.allocate(16, Place.HOST)
    timed.record(ready, compute)
    fill(timed, compute)
    timed.wait(copies, ready)

    timed.copy(target, memory, copies)
    timed.synchronize(copies)

    assert timed.clock == 11


def test_work_begins_no_earlier_than_it_was_asked_for(timed: SimulatedDevice) -> None:
    stream = timed.create_stream("work")
    timed.advance(100)

    fill(timed, stream)
    timed.synchronize(stream)

    assert timed.clock == 110


def test_an_event_is_done_when_its_time_has_come_and_not_before(timed: SimulatedDevice) -> None:
    stream, event = timed.create_stream("work"), timed.create_event("done")
    memory = fill(timed, stream)
    timed.record(event, stream)

    assert not timed.done(event)
    timed.advance(10)
    assert timed.done(event)
    timed.free(memory)  # as after a wait


def test_asking_costs_the_host_what_it_is_told_to_cost(make_card: Callable[..., SimulatedDevice]) -> None:
    card = make_card(submit_seconds=0.25)
    stream = card.create_stream("work")

    for _ in range(4):
        fill(card, stream)

    assert card.clock == 1


def test_a_card_that_computes_nothing_keeps_the_same_time_and_finds_the_same_hazards(
    make_card: Callable[..., SimulatedDevice], floats: Any
) -> None:
    card = make_card(seconds=seconds, computes=False)
    kit, stream, other = floats(card), card.create_stream("work"), card.create_stream("other")
    memory, never = fill(card, stream), card.allocate(16)
    kit.add(memory, memory, stream)
    with pytest.raises(Race):
        kit.add(memory, memory, other)
    with pytest.raises(NeverWritten):
        kit.add(memory, never, stream)

    card.synchronize(stream)

    assert card.clock == 20


def test_what_a_card_that_computes_nothing_gives_back_is_zeros(make_card: Callable[..., SimulatedDevice]) -> None:
    card = make_card(computes=False)
    stream, back = card.create_stream("work"), card.allocate(16, Place.HOST)
    memory = card.allocate(16)
    card.fill(memory, 7, stream)

    card.copy(back, memory, stream)
    card.synchronize(stream)

    assert not card.view(back, np.dtype(np.uint8), (16,)).any()


def test_the_clock_does_not_depend_on_the_order_in_which_work_is_done(
    make_card: Callable[..., SimulatedDevice],
) -> None:
    def run(seed: int) -> float:
        card = make_card(seconds=seconds, seed=seed)
        streams = [card.create_stream(name) for name in "abc"]
        for stream in streams:
            for _ in range(3):
                fill(card, stream)
        card.synchronize(streams[1])
        return card.clock

    assert {run(seed) for seed in range(8)} == {90}  # the three share the card all the time
