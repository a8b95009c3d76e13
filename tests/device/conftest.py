"""Makers for the tests of the device process: frames, and engines that do what a test needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.backend import Engine, EngineBackend, EngineSpec
from trt_engines.backends.graph_source import GraphSource, simulated_card
from trt_engines.backends.on_device import OnDeviceBackend, SessionSource
from trt_engines.backends.onnxruntime import OnnxRuntimeSource
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import HostComputingDevice, Stream
from trt_engines.devices.operations import NetworkOperation, Operation
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import EngineFault
from trt_engines.model import Model, find_models
from trt_engines.residency import Memory
from trt_engines.sessions.host import HostPlan
from trt_worker import frames
from trt_worker.device.loop import DeviceLoop
from trt_worker.job import ImageSeed, JobSpec

MODEL = find_models()["shapes-tiny"]

Spoil = Callable[[NDArray[Any]], None]


class Spoilt(OnnxRuntimeSource):
    """ONNX Runtime whose results of one network are changed."""

    def __init__(self, device: HostComputingDevice, network: str, spoil: Spoil) -> None:
        super().__init__(device, 1)
        self._network, self._spoil = network, spoil

    def plan(self, spec: EngineSpec) -> HostPlan:
        plan = super().plan(spec)
        if spec.network != self._network:
            return plan

        def network(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            results = plan.network(inputs)
            for values in results.values():
                self._spoil(values)
            return results

        return replace(plan, network=network)


class Striking(OnDeviceBackend):
    """A backend whose calls of one network may be refused: `strike` is asked before each."""

    def __init__(self, name: str, source: SessionSource, network: str, strike: Callable[[str], None]) -> None:
        super().__init__(name, source)
        self._network, self._strike = network, strike

    def load(self, spec: EngineSpec, stream: Stream) -> Engine:
        engine = super().load(spec, stream)
        if spec.network == self._network:
            run = engine.run

            def struck(rows: int) -> None:
                self._strike(spec.label)
                run(rows)

            engine.run = struck  # type: ignore[method-assign]
        return engine


class Collector:
    """A device loop in this process and everything it says."""

    def __init__(
        self,
        *backends: EngineBackend,
        models: Sequence[Model] = (MODEL,),
        max_rows: int = 4,
        memory: int | Mapping[Memory, int] = 2**31,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.said: list[frames.FromDevice] = []
        self.pictures: dict[tuple[str, int], NDArray[np.uint8]] = {}
        budgets = dict.fromkeys(Memory, memory) if isinstance(memory, int) else memory
        by_name = {backend.name: backend for backend in backends}
        served = {model.name: model for model in models}
        self.loop = DeviceLoop(served, by_name, max_rows=max_rows, budgets=budgets, emit=self._emit, clock=clock)

    def finish(self) -> None:
        while self.loop.busy:
            self.loop.step()

    def of(self, kind: type[Any]) -> list[Any]:
        return [frame for frame in self.said if isinstance(frame, kind)]

    def _emit(self, header: frames.FromDevice, body: NDArray[np.uint8] | None) -> None:
        self.said.append(header)
        if isinstance(header, frames.Pixels) and body is not None:
            self.pictures[header.id, header.index] = body.copy()


def make_run(job: str = "job", **changes: Any) -> frames.Run:
    settings: dict[str, Any] = {
        "id": job,
        "model": "shapes-tiny",
        "backend": "onnxruntime",
        "prompt": "a red circle",
        "width": 64,
        "height": 64,
        "steps": 3,
        "guidance": 4.0,
        "sampler": "euler",
        "scheduler": "karras",
        "seeds": (ImageSeed(value=1),),
        "received": monotonic(),
        "due": monotonic() + 600,
    }
    fields = settings | changes
    return frames.Run(backend=fields.pop("backend"), job=JobSpec(**fields))


@pytest.fixture
def a_run() -> Callable[..., frames.Run]:
    return make_run


def slow_networks(operation: Operation) -> float:
    """A card on which a call takes a millisecond and everything else nothing."""
    return 1e-3 if isinstance(operation, NetworkOperation) else 0.0


@pytest.fixture(params=["processor", "simulated card"])
def a_device(request: pytest.FixtureRequest) -> Callable[[], HostComputingDevice]:
    """A maker of devices: everything that the loop does, it does on the processor and on the strict card."""
    if request.param == "processor":
        return CpuDevice
    return lambda: SimulatedDevice(replace(simulated_card({}), memory_bytes=2**30), seed=1, seconds=slow_networks)


@pytest.fixture
def a_loop(a_device: Callable[[], HostComputingDevice]) -> Callable[..., Collector]:
    def make(*backends: Any, **settings: Any) -> Collector:
        return Collector(*(backends or (graphs(a_device()),)), **settings)

    return make


@pytest.fixture
def immediate_loop() -> Callable[..., Collector]:
    """A maker of loops on the processor, where everything is done before a call returns."""
    return Collector


@pytest.fixture
def spoilt(a_device: Callable[[], HostComputingDevice]) -> Callable[..., OnDeviceBackend]:
    """A maker of backends "spoilt" that change the results of a network."""
    return lambda network, spoil: OnDeviceBackend("spoilt", Spoilt(a_device(), network, spoil))


@pytest.fixture
def striking(a_device: Callable[[], HostComputingDevice]) -> Callable[..., OnDeviceBackend]:
    """A maker of backends "spoilt" whose calls of a network `strike` may refuse."""

    def refuse(label: str) -> None:
        raise EngineFault(f"{label} failed: the test asked for it")

    def make(network: str, strike: Callable[[str], None] = refuse) -> OnDeviceBackend:
        return Striking("spoilt", OnnxRuntimeSource(a_device(), 1), network, strike)

    return make


@pytest.fixture
def sound(a_device: Callable[[], HostComputingDevice]) -> Callable[[], OnDeviceBackend]:
    """A maker of the backend of the model's own graphs."""
    return lambda: graphs(a_device())


def graphs(device: HostComputingDevice, name: str = "onnxruntime") -> OnDeviceBackend:
    """The backend of a model's graphs; on a card their weights fill its memory."""
    kind = OnnxRuntimeSource if isinstance(device, CpuDevice) else GraphSource
    return OnDeviceBackend(name, kind(device, 1))
