"""The one seam between the runtime and whatever runs a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trt_engines.bucket import Bucket
from trt_engines.model import Component, Model
from trt_engines.residency import Footprint

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """Which network, for which shapes."""

    model: Model
    component: Component
    bucket: Bucket

    @property
    def label(self) -> str:
        """Name in logs and metrics, as in `shapes-tiny/denoiser/256x256r8t77`."""
        return f"{self.model.name}/{self.component.value}/{self.bucket.label}"


class Engine(Protocol):
    """A network ready to run in one bucket: its inputs and outputs are bound once and reused for every call."""

    @property
    def spec(self) -> EngineSpec:
        """What it was made for."""

    @property
    def inputs(self) -> Mapping[str, NDArray[Any]]:
        """Bound input tensors at full rows; the caller writes rows 0..rows-1 in place."""

    @property
    def outputs(self) -> Mapping[str, NDArray[Any]]:
        """Bound output tensors at full rows; rows 0..rows-1 are valid after `run`, until the next `run`."""

    def run(self, rows: int) -> None:
        """Evaluate the first `rows` rows, 1 <= rows <= bucket.rows.

        Raises: EngineFault: the library reported an error. OutOfMemory: the device has no room.
        """

    def close(self) -> None:
        """Free what the engine holds; the engine cannot be used any more."""


class EngineBackend(Protocol):
    """One way to run a network: TensorRT, ONNX Runtime and PyTorch differ behind these verbs and nowhere else."""

    @property
    def name(self) -> str:
        """As configurations and plans call it."""

    def refuses(self, spec: EngineSpec) -> str | None:
        """Why this backend cannot run the network, in an operator's words; None: it can."""

    def footprint(self, spec: EngineSpec) -> Footprint:
        """Memory that the network's engine will take, as far as it can be told beforehand; loads nothing."""

    def load(self, spec: EngineSpec) -> Engine:
        """Make an engine.

        Raises: StaleEngine, OutOfMemory, EngineFault.
        """

    def unload(self, model: Model, component: Component) -> None:
        """Free what the engines of a network share, all of which have been closed."""
