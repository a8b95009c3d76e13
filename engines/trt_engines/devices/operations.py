"""What a device is asked to do, described so that a cost model can say how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.devices.memory import Buffer


class Direction(Enum):
    """Which way a copy goes."""

    UPLOAD = "upload"  # host to device
    DOWNLOAD = "download"  # device to host
    INSIDE = "inside"  # device to device


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOperation:
    direction: Direction
    size: int  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FillOperation:
    size: int  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelOperation:
    kernel: str
    read: int  # bytes that move from memory
    written: int  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOperation:
    """One call of an engine."""

    engine: str  # as the session calls it
    shapes: tuple[tuple[str, tuple[int, ...]], ...]  # of every tensor in this call, by name
    rows: int


Operation = CopyOperation | FillOperation | KernelOperation | NetworkOperation

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One operation for a device that computes on the host: the CPU and the simulated card.

    `run` is given the bytes of a buffer by the device and computes in place; it touches only what `reads` and
    `writes` name.
    """

    operation: Operation
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    run: Callable[[Callable[[Buffer], Bytes]], None]
    state: Callable[[], object] | None = None  # of what asked for it: a graph of it is void once this is another


Network = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""A network as host code: input arrays by name to output arrays by name."""
