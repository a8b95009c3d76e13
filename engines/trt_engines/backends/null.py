"""An engine that costs nothing: what is left when a network is free is the cost of everything around it."""

from __future__ import annotations

import numpy as np

from trt_engines.backend import EngineSpec
from trt_engines.interface import interface_of
from trt_engines.model import Component, Model
from trt_engines.residency import Footprint


class NullBackend:
    """Answers every call at once with the same fixed values."""

    name = "null"

    def refuses(self, spec: EngineSpec) -> str | None:
        return None

    def footprint(self, spec: EngineSpec) -> Footprint:
        return Footprint(weights=0)

    def load(self, spec: EngineSpec) -> NullEngine:
        return NullEngine(spec)

    def unload(self, model: Model, component: Component) -> None:
        pass


class NullEngine:
    """Outputs are drawn once, seeded, small and finite, so that pictures made of them are not black."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        interface = interface_of(spec)
        random = np.random.default_rng(0)
        self.inputs = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in interface.inputs}
        self.outputs = {
            tensor.name: random.uniform(-0.5, 0.5, tensor.shape).astype(tensor.dtype) for tensor in interface.outputs
        }

    def run(self, rows: int) -> None:
        if not 1 <= rows <= self.spec.bucket.rows:
            raise ValueError(f"{self.spec.label}: {rows} rows asked of {self.spec.bucket.rows}")

    def close(self) -> None:
        pass
