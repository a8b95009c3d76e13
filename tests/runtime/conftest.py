"""Makers for the runtime's tests: frames, and engines that do what a test needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.backend import Engine, EngineSpec
from trt_engines.backends.onnxruntime import OnnxRuntimeBackend
from trt_engines.errors import EngineFault
from trt_engines.model import Component, Model, find_models
from trt_engines.residency import Footprint
from trt_worker.runtime import frames
from trt_worker.runtime.loop import DeviceLoop

MODEL = find_models()["shapes-tiny"]


class Spoilt:
    """ONNX Runtime whose results of one component are changed, or whose calls fail."""

    def __init__(
        self, component: Component, spoil: Callable[[NDArray[Any]], None] | None, name: str = "spoilt"
    ) -> None:
        self.name = name
        self._inner = OnnxRuntimeBackend(1)
        self._component, self._spoil = component, spoil

    def refuses(self, spec: EngineSpec) -> str | None:
        return self._inner.refuses(spec)

    def footprint(self, spec: EngineSpec) -> Footprint:
        return self._inner.footprint(spec)

    def unload(self, model: Model, component: Component) -> None:
        self._inner.unload(model, component)

    def load(self, spec: EngineSpec) -> Engine:
        engine = self._inner.load(spec)
        if spec.component is self._component:
            run, spoil = engine.run, self._spoil

            def spoilt(rows: int) -> None:
                if spoil is None:
                    raise EngineFault(f"{spec.label} failed: the test asked for it")
                run(rows)
                (output,) = engine.outputs.values()
                spoil(output)

            engine.run = spoilt  # type: ignore[method-assign]
        return engine


class Collector:
    """A device loop in this process and everything it says."""

    def __init__(
        self, *backends: Any, models: Sequence[Model] = (MODEL,), max_rows: int = 4, memory: int = 2**31
    ) -> None:
        chosen = backends or (OnnxRuntimeBackend(1),)
        self.said: list[frames.FromDevice] = []
        self.pictures: dict[tuple[str, int], NDArray[np.uint8]] = {}
        by_name = {backend.name: backend for backend in chosen}
        served = {model.name: model for model in models}
        self.loop = DeviceLoop(served, by_name, max_rows=max_rows, memory=memory, emit=self._emit)

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
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "steps": 3,
        "guidance": 4.0,
        "sampler": "euler",
        "scheduler": "karras",
        "strength": 1.0,
        "clip_skip": 1,
        "source_crop": False,
        "images": (frames.Image(seed=1, draw=0),),
        "received": monotonic(),
        "due": monotonic() + 600,
    }
    return frames.Run(**(settings | changes))


@pytest.fixture
def a_run() -> Callable[..., frames.Run]:
    return make_run


@pytest.fixture
def a_loop() -> type[Collector]:
    return Collector


@pytest.fixture
def spoilt() -> type[Spoilt]:
    return Spoilt
