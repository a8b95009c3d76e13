"""The backends by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from trt_engines.backend import EngineBackend
from trt_engines.backends.faulty import FaultyBackend
from trt_engines.backends.graph_source import GraphSource, simulated_card
from trt_engines.backends.null import NullBackend
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.backends.onnxruntime import OnnxRuntimeBackend
from trt_engines.backends.pytorch import PyTorchBackend
from trt_engines.backends.rowwise import RowwiseBackend
from trt_engines.backends.stored_source import StoredSource, installed_version
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import EngineRefused
from trt_engines.store.place import DEFAULT_STORE, VARIABLE
from trt_engines.store.store import Store

INSTRUMENTS = ("null", "rowwise", "faulty", "simulated")
"""What the worker is tried with, on any machine; nobody serves with them."""

BUILT = ("tensorrt-rtx", "tensorrt")
"""What runs engines of the store; named as the libraries that build them."""

BACKENDS = (*BUILT, "onnxruntime-cuda", "onnxruntime", "pytorch-gpu", "pytorch", *INSTRUMENTS)


def make_backends(names: Sequence[str], *, threads: int = 0, sm: int | None = None) -> tuple[EngineBackend, ...]:
    """Backends in the order of `names`; none of them imports its library before it loads an engine.

    Args:
        threads: threads of one engine call on the processor; 0 takes every core this process may use.
        sm: compute capability of the device's card, times ten; None: it has none that CUDA drives.
    Raises: EngineRefused: a name is not in `BACKENDS`. UnknownCard: the simulated one.
    """
    store = Store(Path(os.environ.get(VARIABLE, DEFAULT_STORE)))

    def built(library: str) -> EngineBackend:
        installed = installed_version(library)
        return OnDeviceBackend(library, StoredSource(library, store, installed=installed, sm=sm))

    makers: dict[str, Callable[[], EngineBackend]] = {
        "tensorrt-rtx": lambda: built("tensorrt-rtx"),
        "tensorrt": lambda: built("tensorrt"),
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
