"""One block of activation memory for the engines of a stream, and a context for every number of their rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trt_engines.devices.device import HostComputingDevice, Stream
from trt_engines.devices.memory import Place
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import OutOfMemory
from trt_engines.sessions.activation import SharedActivation
from trt_engines.sessions.bound import MOST_CONTEXTS, BoundEngine
from trt_engines.sessions.host import HostContext, HostSession
from trt_engines.sessions.session import ShapeRange

TENSORS = 2 * 256  # bytes of an engine's tensors, as a card gives them out


class Shelf:
    """Engines with some activation memory each, in one stream."""

    def __init__(self, device: HostComputingDevice, make_plan: Any, make_interface: Any) -> None:
        self.device = device
        self.stream: Stream = device.create_stream("engines")
        self.activation = SharedActivation(device, self.stream)
        self._make_plan, self._make_interface = make_plan, make_interface

    def engine(self, activation_bytes: int) -> BoundEngine:
        session = HostSession(self.device, self._make_plan(weight_bytes=0, activation_bytes=activation_bytes))
        return BoundEngine(self.device, session, self._make_interface(), self.stream, self.activation)

    @property
    def used(self) -> int:
        memory = self.device.memory_info()
        return memory.total - memory.free

    def doubles(self, engine: BoundEngine, rows: int) -> bool:
        values = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
        block = self.device.allocate(values.nbytes, Place.HOST)
        self.device.view(block, values.dtype, values.shape, write=True)[...] = values
        self.device.copy(engine.part("x", rows), block, self.stream)
        engine.run(rows)
        self.device.copy(block, engine.part("y", rows), self.stream)
        self.device.synchronize(self.stream)
        return bool((self.device.view(block, values.dtype, values.shape) == 2 * values).all())


@pytest.fixture
def shelf(card: SimulatedDevice, make_plan: Any, make_interface: Any) -> Shelf:
    return Shelf(card, make_plan, make_interface)


def test_the_block_is_as_large_as_the_greediest_engine_that_is_there_needs(shelf: Shelf) -> None:
    small, large, middle = (shelf.engine(size) for size in (1024, 8192, 2048))
    assert shelf.used == 3 * TENSORS + 8192

    large.close()
    assert shelf.used == 2 * TENSORS + 2048

    small.close()
    middle.close()
    assert shelf.used == 0


def test_engines_with_graphs_go_on_when_the_block_moves(shelf: Shelf) -> None:
    small = shelf.engine(1024)
    for _ in range(2):
        assert shelf.doubles(small, 3)

    large = shelf.engine(8192)
    assert shelf.doubles(large, 2)
    assert shelf.doubles(small, 3)
    large.close()

    assert shelf.doubles(small, 3)


def test_an_engine_without_room_leaves_the_others_as_they_were(shelf: Shelf) -> None:
    small = shelf.engine(1024)
    used = shelf.used

    with pytest.raises(OutOfMemory):
        shelf.engine(1 << 20)

    assert shelf.used == used
    assert shelf.doubles(small, 3)


def test_rows_may_change_while_calls_with_others_are_under_way_and_nothing_waits(shelf: Shelf) -> None:
    engine = shelf.engine(1024)
    for rows in (5, 2, 7):
        assert shelf.doubles(engine, rows)
    before = shelf.device.clock

    for rows in (5, 2, 7, 5, 2, 7):
        engine.run(rows)

    assert shelf.device.clock == before
    assert shelf.doubles(engine, 2)


def test_the_context_that_was_called_longest_ago_leaves_for_one_more_number_of_rows(
    device: HostComputingDevice, make_plan: Any, make_interface: Any
) -> None:
    whole = ShapeRange(min=(1, 4), opt=(4, 4), max=(32, 4))
    made: list[Any] = []

    class Noting(HostSession):
        def context(self, interface: Any, stream: Any) -> HostContext:
            made.append(super().context(interface, stream))
            return made[-1]

    session = Noting(device, make_plan(profiles=({"x": whole},)))
    stream = device.create_stream("engine")
    engine = BoundEngine(device, session, make_interface(rows=32), stream)
    device.fill(engine.part("x", 32), 0, stream)
    for rows in range(1, MOST_CONTEXTS + 1):  # and the one of all rows, which is there from the beginning
        engine.run(rows)
    for rows in range(1, MOST_CONTEXTS + 1):
        engine.run(rows)

    assert len(made) == MOST_CONTEXTS + 1
    engine.close()
