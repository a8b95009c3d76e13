"""Makers for the tests of sessions: a small network whose answer is easy to tell, on devices that need no card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import DeviceProperties, HostComputingDevice, Stream
from trt_engines.devices.memory import Buffer, Place
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.interface import Interface, TensorSpec
from trt_engines.sessions.host import HostContext, HostPlan, HostSession
from trt_engines.sessions.session import ShapeRange

FLOAT = np.dtype(np.float32)
WIDTH = 4
CARD = DeviceProperties(name="a card", sm=89, memory_bytes=1 << 20, multiprocessors=128)


def doubled(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {"y": 2 * inputs["x"]}


def a_plan(**changes: Any) -> HostPlan:
    whole = ShapeRange(min=(1, WIDTH), opt=(4, WIDTH), max=(8, WIDTH))
    settings: dict[str, Any] = {
        "label": "a/doubler",
        "network": doubled,
        "profiles": ({"x": whole},),
        "weight_bytes": 1024,
        "activation_bytes": 512,
    }
    return HostPlan(**(settings | changes))


def an_interface(rows: int = 8, width: int = WIDTH) -> Interface:
    x, y = (TensorSpec(name=name, shape=(rows, width), dtype=FLOAT) for name in "xy")
    return Interface(inputs=(x,), outputs=(y,))


class Bench:
    """A context whose tensors are bound, and the way in and out of it."""

    def __init__(self, device: HostComputingDevice, stream: Stream | None = None, **changes: Any) -> None:
        self.device = device
        self.stream = stream or device.create_stream("engine")
        self.session = HostSession(device, a_plan(**changes))
        self.context: HostContext = self.session.context(an_interface(), self.stream)
        self.x, self.y = (device.allocate(8 * WIDTH * 4) for _ in "xy")
        self.activation = device.allocate(512)
        self.context.use_activation(self.activation)
        self.context.bind({"x": self.x, "y": self.y})

    def give(self, values: NDArray[np.float32]) -> None:
        source = self.device.allocate(values.nbytes, Place.HOST)
        self.device.view(source, FLOAT, values.shape, write=True)[:] = values
        self.device.copy(self.x.part(0, values.nbytes), source, self.stream)

    def take(self, rows: int) -> NDArray[Any]:
        target: Buffer = self.device.allocate(rows * WIDTH * 4, Place.HOST)
        self.device.copy(target, self.y.part(0, target.size), self.stream)
        self.device.synchronize(self.stream)
        return self.device.view(target, FLOAT, (rows, WIDTH))


@pytest.fixture(params=["cpu", "simulated"])
def device(request: pytest.FixtureRequest) -> Iterator[HostComputingDevice]:
    one = CpuDevice() if request.param == "cpu" else SimulatedDevice(CARD)
    yield one
    one.close()


@pytest.fixture
def card() -> Iterator[SimulatedDevice]:
    one = SimulatedDevice(CARD, seconds=lambda operation: 1.0)
    yield one
    one.close()


@pytest.fixture
def bench() -> type[Bench]:
    return Bench


@pytest.fixture
def make_plan() -> Callable[..., HostPlan]:
    return a_plan


@pytest.fixture
def make_interface() -> Callable[..., Interface]:
    return an_interface
