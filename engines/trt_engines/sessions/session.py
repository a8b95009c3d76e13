"""What a loaded engine is to the device process, whichever library runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trt_engines.devices.device import Stream
from trt_engines.devices.memory import Buffer
from trt_engines.interface import Interface

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """What a profile allows of one input."""

    min: Shape
    opt: Shape
    max: Shape

    def covers(self, shape: Shape) -> bool:
        return len(shape) == len(self.min) and all(
            low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A tensor as the engine itself declares it."""

    dtype: np.dtype[Any]
    shape: Shape  # -1 along an axis whose length a call decides


ProfileShapes = Mapping[str, ShapeRange]
"""One profile: the range of every input, by name."""


def covering(profiles: tuple[ProfileShapes, ...], interface: Interface) -> int | None:
    """The first profile that takes the full rows of an interface as well as a single one; None: none does.

    A profile made for these very rows (it does not take fewer) comes second to one that takes them all.
    """
    full = {tensor.name: tensor.shape for tensor in interface.inputs}
    single = {tensor.name: tensor.at(1) for tensor in interface.inputs}
    for wanted in ((full, single), (full,)):
        for number, profile in enumerate(profiles):
            if all(profile[name].covers(shape) for shapes in wanted for name, shape in shapes.items()):
                return number
    return None


class Context(Protocol):
    """An engine made ready for one bucket on one stream. Its bindings are set once and stay."""

    @property
    def interface(self) -> Interface:
        """The tensors at full rows."""

    @property
    def activation_bytes(self) -> int:
        """Memory that a call needs beside weights and tensors."""

    @property
    def capturable(self) -> bool:
        """Whether a call as the last one may be captured into a graph."""

    def use_activation(self, memory: Buffer) -> None:
        """Work in this memory, of at least `activation_bytes`. Contexts that run in turn may share it.

        A graph that was captured before is void.
        """

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        """Where the tensors are, at full rows. A graph that was captured before is void."""

    def set_rows(self, rows: int) -> None:
        """Rows of the next calls; at least one plain call comes between this and a capture.

        A graph that was captured before is void.
        """

    def enqueue(self, stream: Stream) -> None:
        """Run once, in the stream that the context was made for. Raises: EngineFault."""

    def close(self) -> None:
        """Give back what it holds, its stream having been waited for: it cannot be used any more."""


class Session(Protocol):
    """A loaded engine."""

    @property
    def label(self) -> str:
        """Name in logs and errors."""

    @property
    def profiles(self) -> tuple[ProfileShapes, ...]:
        """The shapes that it takes."""

    @property
    def tensors(self) -> Mapping[str, Declared]:
        """Its inputs and outputs by name."""

    def context(self, interface: Interface, stream: Stream) -> Context:
        """Make a context. Raises: EngineRefused: no profile takes the interface's shapes. OutOfMemory."""

    def close(self) -> None:
        """Give back what it holds; its contexts were closed before."""
