"""The phases parse and build: a bound graph becomes a plan. Imports neither PyTorch nor the library before its use."""

from __future__ import annotations

import threading
from pathlib import Path

from trt_engines.builders.builder import PARSE, BuildRequest, BuildResult, EngineBuilder, Progress
from trt_engines.builders.tensorrt import TensorRt
from trt_engines.builders.tensorrt_rtx import TensorRtRtx
from trt_export.child import Tell

BUILDERS: dict[str, EngineBuilder] = {builder.name: builder for builder in (TensorRtRtx(), TensorRt())}

LEAST_STEP = 0.01
"""Share of a phase that is worth telling."""


def compile_plan(library: str, request: BuildRequest, plan: Path, tell: Tell) -> BuildResult:
    """Compile a bound graph and write the plan, telling "parse" and "build" apart.

    Raises: BuildFailed, BuilderMissing, StoreFull, OSError.
    """
    return BUILDERS[library].build(request, plan, Shares(tell).take)


class Shares:
    """Turns the library's phases, which nest and repeat, into one share of the build that only grows.

    The top-level phases come one after the other, and how many there will be is not known: the build is as far as the
    one that is least far, which is the last one that began.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told = 0.0
        self._top: dict[str, float] = {}
        self._turn = threading.Lock()  # the library calls from threads of its own

    def take(self, progress: Progress) -> bool:
        """Tell a step; gives True, which lets the build go on."""
        if progress.parent is not None or not progress.steps:
            return True
        share = progress.done / progress.steps
        if progress.phase == PARSE:
            self._tell(PARSE, share)
            return True
        with self._turn:
            self._top[progress.phase] = share
            share = min(self._top.values())
            if share >= self._told + LEAST_STEP:
                self._told = share
                self._tell("build", share)
        return True
