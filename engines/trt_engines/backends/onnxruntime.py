"""ONNX Runtime: on the CPU the embedded default, and the oracle the other backends are held to; on a card a fallback.

Nothing here was run on a card: that the CUDA provider computes the same is ONNX Runtime's word.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from trt_engines.backend import EngineSpec
from trt_engines.backends.footprint import single_precision
from trt_engines.backends.host_source import memory_of, network_plan
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import HostComputingDevice
from trt_engines.errors import EngineRefused
from trt_engines.residency import Footprint, Memory
from trt_engines.sessions.host import HostPlan, HostSession
from trt_engines.sessions.onnx_graph import declared_tensors, open_graph, session_network


def onnxruntime_backend(threads: int = 0, *, cuda: bool = False) -> OnDeviceBackend:
    """The backend that runs a model's ONNX graphs.

    Args:
        threads: threads of one engine call; 0 takes every core this process may use.
        cuda: compute on the first card that the process sees; tensors stay in host memory and are copied at each call.
    """
    return OnDeviceBackend(
        "onnxruntime-cuda" if cuda else "onnxruntime", OnnxRuntimeSource(CpuDevice(), threads, cuda=cuda)
    )


class OnnxRuntimeSource:
    """A model's graphs, each opened once for every size. Args: see `onnxruntime_backend`."""

    def __init__(self, device: HostComputingDevice, threads: int = 0, *, cuda: bool = False) -> None:
        self.device = device
        self.memory = Memory.CARD if cuda else memory_of(device)
        self._provider = "CUDAExecutionProvider" if cuda else "CPUExecutionProvider"
        self._threads = threads or len(os.sched_getaffinity(0))

    def refuses(self, spec: EngineSpec) -> str | None:
        if find_spec("onnxruntime") is None:
            return "ONNX Runtime is not installed (pip install onnxruntime-gpu)"
        if spec.files is None or spec.files.graph is None:
            return f"{spec.model.name} has no graph of its {spec.network}"
        return None

    def footprint(self, spec: EngineSpec) -> Footprint:
        return single_precision(spec)

    def engine_of(self, spec: EngineSpec) -> str:
        return spec.network

    def open(self, spec: EngineSpec) -> HostSession:
        return HostSession(self.device, self.plan(spec))

    def plan(self, spec: EngineSpec) -> HostPlan:
        """The graph as a network. Raises: EngineFault: it cannot be loaded."""
        if spec.files is None or spec.files.graph is None:
            raise EngineRefused(f"{spec.label}: {self.refuses(spec)}")
        graph = open_graph(spec.files.graph, self._threads, self._provider)
        return network_plan(spec, session_network(graph), declared_tensors(graph))
