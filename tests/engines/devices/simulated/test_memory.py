"""The simulated card's memory: what it remembers of its use, and for how long."""

from __future__ import annotations

from trt_engines.devices.device import Stream
from trt_engines.devices.memory import Place
from trt_engines.devices.simulated.hazards import Site
from trt_engines.devices.simulated.memory import SimulatedMemory
from trt_engines.devices.simulated.order import Clock

HERE = Site("here", 1, "a test")
NOTHING = Clock()


def test_what_the_host_knows_to_be_done_is_forgotten_and_the_rest_is_not() -> None:
    memory, one, other = SimulatedMemory(1 << 12), Stream(1, "one"), Stream(2, "other")
    done, running = (memory.allocate(16, Place.DEVICE, HERE) for _ in range(2))
    memory.use((), (done,), one, 1, NOTHING, HERE)
    memory.use((), (running,), other, 1, NOTHING, HERE)

    memory.forget(NOTHING.advanced(one, 1))

    assert not memory.block(done, HERE).accesses
    assert [access.stream for access in memory.block(running, HERE).accesses] == [other]

    memory.forget(NOTHING.advanced(one, 1).advanced(other, 1))
    assert not memory.block(running, HERE).accesses
