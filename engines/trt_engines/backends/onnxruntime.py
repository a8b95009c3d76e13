"""ONNX Runtime: on the CPU the embedded default, and the oracle the other backends are held to; on a card a fallback.

Nothing here was run on a card: that the CUDA provider computes the same is ONNX Runtime's word.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.backend import EngineSpec
from trt_engines.backends.footprint import single_precision
from trt_engines.errors import EngineFault
from trt_engines.interface import Interface, TensorSpec, interface_of
from trt_engines.model import Component, Model
from trt_engines.residency import Footprint

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime


class OnnxRuntimeBackend:
    """Runs a model's ONNX graphs; one session per graph serves every bucket.

    Args:
        threads: threads of one engine call; 0 takes every core this process may use.
        cuda: compute on the first card that the process sees; tensors stay in host memory and are copied at each call.
    """

    def __init__(self, threads: int = 0, *, cuda: bool = False) -> None:
        self.name = "onnxruntime-cuda" if cuda else "onnxruntime"
        self._provider = "CUDAExecutionProvider" if cuda else "CPUExecutionProvider"
        self._threads = threads or len(os.sched_getaffinity(0))
        self._sessions: dict[Path, onnxruntime.InferenceSession] = {}

    def refuses(self, spec: EngineSpec) -> str | None:
        if find_spec("onnxruntime") is None:
            return "ONNX Runtime is not installed (pip install onnxruntime-gpu)"
        if spec.component not in spec.model.graphs:
            return f"{spec.model.name} has no {spec.component.value} graph"
        return None

    def footprint(self, spec: EngineSpec) -> Footprint:
        return single_precision(spec)

    def load(self, spec: EngineSpec) -> OnnxRuntimeEngine:
        session = self._session(spec.model.graphs[spec.component])
        layers = 1
        if spec.component is Component.TEXT_ENCODER:
            layers = int(session.get_outputs()[0].shape[0])
        return OnnxRuntimeEngine(spec, session, interface_of(spec, text_layers=layers))

    def unload(self, model: Model, component: Component) -> None:
        self._sessions.pop(model.graphs[component], None)

    def _session(self, graph: Path) -> onnxruntime.InferenceSession:
        if graph not in self._sessions:
            self._sessions[graph] = open_graph(graph, self._threads, self._provider)
        return self._sessions[graph]


def open_graph(graph: Path, threads: int, provider: str = "CPUExecutionProvider") -> onnxruntime.InferenceSession:
    """A graph that computes with a provider and no other. Raises: EngineFault: it cannot."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(graph), sess_options=options, providers=[provider])
    except Exception as error:
        raise EngineFault(f"ONNX Runtime cannot load {graph}: {error}") from error
    if (used := session.get_providers()[0]) != provider:  # it falls back without an error
        raise EngineFault(
            f"ONNX Runtime does not compute with {provider} here and would use {used}: this needs "
            "onnxruntime-gpu with the CUDA and cuDNN libraries that its release notes name"
        )
    return session


class OnnxRuntimeEngine:
    """A session with its tensors bound once per row count: a call allocates nothing of ours."""

    def __init__(self, spec: EngineSpec, session: onnxruntime.InferenceSession, interface: Interface) -> None:
        self.spec = spec
        self._session = session
        self._interface = interface
        self.inputs = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in interface.inputs}
        self.outputs = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in interface.outputs}
        self._bindings: dict[int, Any] = {}

    def run(self, rows: int) -> None:
        try:
            binding = self._bindings.get(rows) or self._bind(rows)
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise EngineFault(f"{self.spec.label} failed in ONNX Runtime: {error}") from error

    def close(self) -> None:
        self._bindings.clear()

    def _bind(self, rows: int) -> Any:
        binding = self._session.io_binding()
        for tensor in self._interface.inputs:
            binding.bind_input(*_place(tensor, self.inputs[tensor.name], rows))
        for tensor in self._interface.outputs:
            binding.bind_output(*_place(tensor, self.outputs[tensor.name], rows))
        self._bindings[rows] = binding
        return binding


def _place(tensor: TensorSpec, buffer: NDArray[Any], rows: int) -> tuple[str, str, int, Any, tuple[int, ...], int]:
    if rows != tensor.shape[tensor.row_axis] and any(size != 1 for size in tensor.shape[: tensor.row_axis]):
        raise EngineFault(f"{tensor.name}: fewer than all rows need the rows to be the first axis")
    return tensor.name, "cpu", 0, tensor.dtype.type, tensor.at(rows), buffer.ctypes.data
