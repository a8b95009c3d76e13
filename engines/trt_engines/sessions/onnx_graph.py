"""A graph that ONNX Runtime runs, as a network for sessions that compute on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from trt_engines.devices.operations import Network
from trt_engines.errors import EngineFault
from trt_engines.sessions.session import Declared

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime

_TYPES = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(bool)": np.dtype(np.bool_),
}


def open_graph(graph: Path, threads: int, provider: str = "CPUExecutionProvider") -> onnxruntime.InferenceSession:
    """A graph, ready to run. Its weights may lie behind links beside it.

    Raises: EngineFault: it cannot be loaded, or not where it was asked for.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        model = _with_places(graph)
        if isinstance(model, bytes):
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/")
        session = onnxruntime.InferenceSession(model, sess_options=options, providers=[provider])
    except Exception as error:
        raise EngineFault(f"ONNX Runtime cannot load {graph}: {error}") from error
    if (used := session.get_providers()[0]) != provider:  # it falls back without an error
        raise EngineFault(
            f"ONNX Runtime does not compute with {provider} here and would use {used}: this needs onnxruntime-gpu with "
            "the CUDA and cuDNN libraries that its release notes name"
        )
    return session


def _with_places(graph: Path) -> str | bytes:
    """A graph as ONNX Runtime finds its weights: its path, or its bytes with places that begin at the root.

    ONNX Runtime takes no external data from behind a link that leads out of the graph's folder. It maps what it reads
    by path, while weights that are handed to it are copied: of a network in half precision a whole copy more (1.31.1,
    eight matrices of 32 MB: a peak of 824 MB against 606).
    """
    if not any(path.is_symlink() for path in graph.parent.iterdir()):
        return str(graph)
    import onnx

    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str((graph.parent / entry.value).resolve()).lstrip("/")
    found: bytes = model.SerializeToString()
    return found


def session_network(session: onnxruntime.InferenceSession) -> Network:
    """An open graph as a network."""
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            results = session.run(names, dict(inputs))
        except Exception as error:
            raise EngineFault(f"a graph failed in ONNX Runtime: {error}") from error
        return dict(zip(names, results, strict=True))

    return run


def declared_tensors(session: onnxruntime.InferenceSession) -> dict[str, Declared]:
    """The inputs and outputs of an open graph. Raises: EngineFault: one is of a type that no network here has."""
    found = {}
    for one in (*session.get_inputs(), *session.get_outputs()):
        if one.type not in _TYPES:
            raise EngineFault(f"{one.name} is a {one.type}; a network takes and gives {', '.join(_TYPES)}")
        shape = tuple(size if isinstance(size, int) else -1 for size in one.shape)
        found[one.name] = Declared(dtype=_TYPES[one.type], shape=shape)
    return found
