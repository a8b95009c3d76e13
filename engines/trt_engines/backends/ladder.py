"""The backends by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trt_engines.backend import EngineBackend
from trt_engines.backends.faulty import FaultyBackend
from trt_engines.backends.graph_source import GraphSource, simulated_card
from trt_engines.backends.null import NullBackend
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.backends.onnxruntime import OnnxRuntimeBackend
from trt_engines.backends.pytorch import PyTorchBackend
from trt_engines.backends.rowwise import RowwiseBackend
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import EngineRefused

INSTRUMENTS = ("null", "rowwise", "faulty", "simulated")
"""What the worker is tried with, on any machine; nobody serves with them."""

BACKENDS = ("onnxruntime-cuda", "onnxruntime", "pytorch-gpu", "pytorch", *INSTRUMENTS)


def make_backends(names: Sequence[str], *, threads: int = 0) -> tuple[EngineBackend, ...]:
    """Backends in the order of `names`; none of them imports its library before it loads an engine.

    Raises: EngineRefused: a name is not in `BACKENDS`.
    """
    makers: dict[str, Callable[[], EngineBackend]] = {
        "onnxruntime-cuda": lambda: OnnxRuntimeBackend(threads, cuda=True),
        "onnxruntime": lambda: OnnxRuntimeBackend(threads),
        "pytorch-gpu": lambda: PyTorchBackend(threads, gpu=True),
        "pytorch": lambda: PyTorchBackend(threads),
        "simulated": lambda: OnDeviceBackend("simulated", GraphSource(SimulatedDevice(simulated_card()), threads)),
        "null": NullBackend,
        "rowwise": RowwiseBackend,
        "faulty": lambda: FaultyBackend(RowwiseBackend()),
    }
    unknown = [name for name in names if name not in makers]
    if unknown:
        raise EngineRefused(f"unknown backend {unknown[0]!r}; known are {', '.join(makers)}")
    return tuple(makers[name]() for name in names)
