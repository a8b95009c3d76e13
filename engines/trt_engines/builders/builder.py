"""What a builder takes, gives and raises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trt_engines.errors import EngineError
from trt_engines.store.identity import InputRange
from trt_engines.store.manifest import DeviceMemory


class BuildFailed(EngineError):
    """A graph could not be compiled; the message names the node or quotes the library, and says what to do."""


class BuildCancelled(EngineError):
    """The caller stopped the build."""


class BuilderMissing(EngineError):
    """The library of a builder is not installed; the message has the command that installs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One engine to build; everything here decides its bytes, except where the graph and the timing cache lie."""

    graph: Path  # ONNX; its external data lie relative to it
    precision: str  # float32, float16, bfloat16 or float8: what the graph's own types are, for checks and messages
    profiles: tuple[tuple[InputRange, ...], ...] = ()  # empty where all shapes are fixed
    compute_capabilities: tuple[int, ...]  # times ten: 86; one engine serves all of them
    refittable: bool = False
    weight_streaming: bool = False
    workspace_bytes: int | None = None  # most scratch memory on the card; None: the library's own limit
    tf32: bool = False  # float32 products with 10 bits of mantissa
    batch_independent: bool = False  # a row's result does not depend on the rows beside it, for matrix products
    optimization_level: int = 3  # 0..5
    timing_cache: Path | None = None  # how fast kernels were on this card, from build to build; TensorRT alone has one

    def __post_init__(self) -> None:
        if not self.compute_capabilities:
            raise ValueError("a build needs at least one compute capability")
        if not 0 <= self.optimization_level <= 5:
            raise ValueError(f"an optimisation level is 0 to 5, and this one is {self.optimization_level}")

    @property
    def flags(self) -> dict[str, bool | int]:
        """What an engine's identity keeps of the builder's settings."""
        flags: dict[str, bool | int] = {
            "refittable": self.refittable,
            "weight_streaming": self.weight_streaming,
            "tf32": self.tf32,
            "batch_independent": self.batch_independent,
            "optimization_level": self.optimization_level,
        }
        return flags if self.workspace_bytes is None else flags | {"workspace_bytes": self.workspace_bytes}


PARSE = "parse"
"""The phase before all of the library's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a phase of a build is."""

    phase: str  # PARSE, or in the library's words
    parent: str | None  # the phase that it is a part of
    done: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What compiling took, besides the plan that it wrote."""

    log: tuple[str, ...]  # warnings and errors of the library
    parse_seconds: float
    build_seconds: float
    memory: DeviceMemory | None = None  # what the engine takes of a card; None: the library did not tell


Report = Callable[[Progress], bool]
"""Takes the progress of a build; False cancels it."""


class EngineBuilder(Protocol):
    """One library that compiles graphs; what differs between libraries stays behind these verbs."""

    @property
    def name(self) -> str:
        """The library, as `cards.builders` and an engine's identity call it: tensorrt-rtx or tensorrt."""

    @property
    def install(self) -> str:
        """The command that installs the library."""

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds for cards that the machine does not have."""

    @property
    def reproducible(self) -> str:
        """What of an engine differs from build to build of one request, and why; empty: nothing."""

    def version(self) -> str:
        """Of the library. Raises: BuilderMissing."""

    def refuses(self, request: BuildRequest) -> str | None:
        """Why this library cannot build it, in an operator's words; None: nothing known speaks against it."""

    def build(self, request: BuildRequest, plan: Path, progress: Report) -> BuildResult:
        """Compile, and write the engine to `plan`, which is whole afterwards, or as before where this raises.

        Raises: BuildFailed, BuildCancelled, BuilderMissing, StoreFull, OSError.
        """


def keep_going(_: Progress) -> bool:
    """A report that neither shows nor stops anything."""
    return True
