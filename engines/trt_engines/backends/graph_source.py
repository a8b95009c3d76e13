"""A model's own graphs in place of built engines, on a device that computes on the host: what a rig with a card is
tried with where there is none."""

from __future__ import annotations

import os
from collections.abc import Mapping

from trt_engines.backend import EngineSpec
from trt_engines.backends.onnxruntime import OnnxRuntimeBackend, open_graph
from trt_engines.bucket import Bucket
from trt_engines.costs.hardware import hardware
from trt_engines.devices.device import DeviceProperties, HostComputingDevice
from trt_engines.interface import interface_of
from trt_engines.residency import Footprint
from trt_engines.sessions.host import HostPlan, HostSession, declared_tensors, session_network
from trt_engines.sessions.session import ProfileShapes, ShapeRange

CARD_VARIABLE, DEFAULT_CARD = "TRT_WORKER_SIMULATED_CARD", "RTX 4090"
"""The environment variable that names the simulated card."""

SMALLEST = Bucket(width=64, height=64, rows=1)
LARGEST = Bucket(width=4096, height=4096, rows=256, tokens=16 * 77)


def simulated_card(environ: Mapping[str, str] = os.environ) -> DeviceProperties:
    """The card that the environment names. Raises: UnknownCard."""
    found = hardware(environ.get(CARD_VARIABLE, DEFAULT_CARD))
    return DeviceProperties(
        name=found.card.name,
        sm=found.card.sm,
        memory_bytes=found.card.memory_bytes,
        multiprocessors=found.multiprocessors,
    )


class GraphSource:
    """Any bucket from SMALLEST to LARGEST of any model that has graphs.

    Args:
        threads: threads of one call; 0 takes every core this process may use.
    """

    def __init__(self, device: HostComputingDevice, threads: int = 0) -> None:
        self.device = device
        self._threads = threads or len(os.sched_getaffinity(0))
        self._runtime = OnnxRuntimeBackend(threads)

    def refuses(self, spec: EngineSpec) -> str | None:
        return self._runtime.refuses(spec)

    def footprint(self, spec: EngineSpec) -> Footprint:
        return Footprint(weights=_weight_bytes(spec), activations=interface_of(spec).bytes)

    def engine_of(self, spec: EngineSpec) -> str:
        return f"{spec.model.name}/{spec.component.value}"

    def open(self, spec: EngineSpec) -> HostSession:
        graph = open_graph(spec.model.graphs[spec.component], self._threads)
        plan = HostPlan(
            label=self.engine_of(spec),
            network=session_network(graph),
            profiles=(_profile(spec),),
            tensors=declared_tensors(graph),
            weight_bytes=_weight_bytes(spec),
        )
        return HostSession(self.device, plan)


def _weight_bytes(spec: EngineSpec) -> int:
    return spec.model.weights[spec.component].stat().st_size


def _profile(spec: EngineSpec) -> ProfileShapes:
    ends = [
        interface_of(EngineSpec(model=spec.model, component=spec.component, bucket=bucket)).inputs
        for bucket in (SMALLEST, LARGEST)
    ]
    return {
        low.name: ShapeRange(min=low.shape, opt=high.shape, max=high.shape) for low, high in zip(*ends, strict=True)
    }
