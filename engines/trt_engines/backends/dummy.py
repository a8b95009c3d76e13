"""A network that costs nothing: what is left when engines are free is the cost of everything around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.backend import EngineSpec
from trt_engines.backends.host_source import NetworkSource
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.devices.device import HostComputingDevice
from trt_engines.devices.operations import Network

DUMMY = "dummy"


def dummy_backend(device: HostComputingDevice | None = None) -> OnDeviceBackend:
    """The backend whose engines are free. Args: device: where tensors are; None: the processor."""
    return OnDeviceBackend(DUMMY, NetworkSource(dummy_network, device))


def dummy_network(spec: EngineSpec) -> Network:
    """Answers every call with the same values: seeded, small and finite, so that pictures are not black."""
    interface = spec.interface
    random = np.random.default_rng(0)
    drawn = [(one, random.uniform(-0.5, 0.5, one.shape).astype(one.dtype)) for one in interface.outputs]
    first = interface.inputs[0].name

    def answer(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        rows = slice(len(inputs[first]))
        return {one.name: values[(slice(None),) * one.row_axis + (rows,)] for one, values in drawn}

    return answer
