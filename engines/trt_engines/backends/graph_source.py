"""A model's own graphs in place of built engines, on a device that computes on the host: what a rig with a card is
tried with where there is none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from trt_engines.backend import EngineSpec
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.backends.onnxruntime import OnnxRuntimeSource
from trt_engines.costs.hardware import hardware
from trt_engines.devices.device import DeviceProperties
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.residency import Footprint
from trt_engines.sessions.host import HostPlan

SIMULATED = "simulated"

CARD_VARIABLE, DEFAULT_CARD = "TRT_WORKER_SIMULATED_CARD", "RTX 4090"
"""The environment variable that names the simulated card."""


def simulated_card(environ: Mapping[str, str] = os.environ) -> DeviceProperties:
    """The card that the environment names. Raises: UnknownCard."""
    found = hardware(environ.get(CARD_VARIABLE, DEFAULT_CARD))
    return DeviceProperties(
        name=found.card.name,
        sm=found.card.sm,
        memory_bytes=found.card.memory_bytes,
        multiprocessors=found.multiprocessors,
    )


def simulated_backend(threads: int = 0) -> OnDeviceBackend:
    """The backend of the card that the environment names. Raises: UnknownCard."""
    return OnDeviceBackend(SIMULATED, GraphSource(SimulatedDevice(simulated_card()), threads))


class GraphSource(OnnxRuntimeSource):
    """Graphs whose weights fill the device's memory, as those of built engines do."""

    def footprint(self, spec: EngineSpec) -> Footprint:
        return Footprint(weights=_weight_bytes(spec), tensors=spec.interface.bytes)

    def plan(self, spec: EngineSpec) -> HostPlan:
        return replace(super().plan(spec), weight_bytes=_weight_bytes(spec))


def _weight_bytes(spec: EngineSpec) -> int:
    """As engines have them, in half precision."""
    return 2 * spec.parameters
