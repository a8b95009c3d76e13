"""What faults cost: unexpected exceptions, poisonous jobs, damaged models, restarts, edits, odd files, late builds."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

MEASUREMENTS = (
    "unexpected",
    "poison",
    "damaged_model",
    "long_prompts",
    "layouts",
    "restart_gap",
    "reload",
    "build_time",
)
"""Modules of `trt_perf.robustness`, in the order in which they run."""


def measure() -> dict[str, float]:
    """All figures of the suite."""
    figures: dict[str, float] = {}
    for name in MEASUREMENTS:
        one: Callable[[], dict[str, float]] = import_module(f"trt_perf.robustness.{name}").measure
        figures |= one()
    return figures
