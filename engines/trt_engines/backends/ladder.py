"""The backends by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trt_engines.backend import EngineBackend
from trt_engines.backends.dummy import DUMMY, dummy_backend
from trt_engines.backends.faulty import FaultyBackend
from trt_engines.backends.onnxruntime import onnxruntime_backend
from trt_engines.backends.pytorch import pytorch_backend
from trt_engines.backends.rowwise import ROWWISE, rowwise_backend
from trt_engines.errors import EngineRefused

TEST_BACKENDS = (DUMMY, ROWWISE, "faulty", "simulated")
"""What the worker is tried with, on any machine; no network is served with them."""

BUILT = ("tensorrt-rtx", "tensorrt")
"""What runs engines of the store; named as the libraries that build them."""

BACKENDS = (*BUILT, "onnxruntime-cuda", "onnxruntime", "pytorch-gpu", "pytorch", *TEST_BACKENDS)


def make_backends(names: Sequence[str], *, threads: int = 0, sm: int | None = None) -> tuple[EngineBackend, ...]:
    """Backends in the order of `names`; none of them imports its library before it loads an engine.

    Args:
        threads: threads of one engine call on the processor; 0 takes every core this process may use.
        sm: compute capability of the device's card, times ten; None: it has none that CUDA drives.
    Raises: EngineRefused: a name is not in `BACKENDS`. UnknownCard: the simulated one.
    """
    makers: dict[str, Callable[[], EngineBackend]] = {
        "tensorrt-rtx": lambda: _built("tensorrt-rtx", sm),
        "tensorrt": lambda: _built("tensorrt", sm),
        "onnxruntime-cuda": lambda: onnxruntime_backend(threads, cuda=True),
        "onnxruntime": lambda: onnxruntime_backend(threads),
        "pytorch-gpu": lambda: pytorch_backend(threads, gpu=True),
        "pytorch": lambda: pytorch_backend(threads),
        "simulated": lambda: _simulated(threads),
        DUMMY: dummy_backend,
        ROWWISE: rowwise_backend,
        "faulty": lambda: FaultyBackend(rowwise_backend()),
    }
    unknown = [name for name in names if name not in makers]
    if unknown:
        raise EngineRefused(f"unknown backend {unknown[0]!r}; known are {', '.join(makers)}")
    return tuple(makers[name]() for name in names)


def _built(library: str, sm: int | None) -> EngineBackend:
    """Imports what only rigs with a card need: the others feel it when they start."""
    import os
    from pathlib import Path

    from trt_engines.backends.on_device import OnDeviceBackend
    from trt_engines.backends.stored_source import StoredSource, installed_version
    from trt_engines.store.place import DEFAULT_STORE, VARIABLE
    from trt_engines.store.store import Store

    store = Store(Path(os.environ.get(VARIABLE, DEFAULT_STORE)))
    return OnDeviceBackend(library, StoredSource(library, store, installed=installed_version(library), sm=sm))


def _simulated(threads: int) -> EngineBackend:
    """Imports the cost model of cards, which a start need not wait for."""
    from trt_engines.backends.graph_source import simulated_backend

    return simulated_backend(threads)
