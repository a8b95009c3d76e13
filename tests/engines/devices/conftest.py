"""Makers for the tests of devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import Device, DeviceProperties, HostComputingDevice
from trt_engines.devices.memory import Place
from trt_engines.devices.operations import Bytes, FillOperation, Work
from trt_engines.devices.simulated.device import SimulatedDevice

CARD = DeviceProperties(name="a card", sm=89, memory_bytes=1 << 20, multiprocessors=128)


def a_card(**changes: Any) -> SimulatedDevice:
    return SimulatedDevice(CARD, **changes)


class Floats:
    """Vectors of floats on a device, and work on them."""

    def __init__(self, device: HostComputingDevice, size: int = 4) -> None:
        self.device, self.size = device, size

    def host(self, *values: float) -> Any:
        buffer = self.device.allocate(4 * self.size, Place.HOST)
        if values:
            self.device.view(buffer, np.dtype(np.float32), (self.size,), write=True)[:] = values
        return buffer

    def device_memory(self) -> Any:
        return self.device.allocate(4 * self.size)

    def read(self, buffer: Any) -> list[float]:
        values: list[float] = self.device.view(buffer, np.dtype(np.float32), (self.size,)).tolist()
        return values

    def add(self, target: Any, source: Any, stream: Any) -> None:
        """target += source; not commutative with any other order of additions and copies."""

        def run(bytes_of: Callable[[Any], Bytes]) -> None:
            into = bytes_of(target).view(np.float32)
            into *= np.float32(0.5)
            into += bytes_of(source).view(np.float32)

        work = Work(operation=FillOperation(size=target.size), reads=(target, source), writes=(target,), run=run)
        self.device.enqueue(work, stream)


@pytest.fixture(params=["cpu", "simulated"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    one = CpuDevice() if request.param == "cpu" else a_card()
    yield one
    one.close()


@pytest.fixture
def card() -> Iterator[SimulatedDevice]:
    one = a_card()
    yield one
    one.close()


@pytest.fixture
def floats() -> type[Floats]:
    return Floats


@pytest.fixture
def make_card() -> Callable[..., SimulatedDevice]:
    return a_card
