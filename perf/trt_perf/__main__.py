"""`python -m trt_perf [SUITE ...] [--json PATH]`, which is `trt-worker bench`: run suites and print their figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from trt_engines.figures import write_figures
from trt_perf.targets import TARGETS

SUITES = ("pipeline", "host", "build", "device", "noise", "faults", "fidelity", "models")


def main(arguments: list[str] | None = None) -> int:
    """Run the suites that are asked for, all without a name; the exit status is 1 when a figure misses its target."""
    parser = argparse.ArgumentParser(prog="trt-worker bench", description="Measure the worker on this machine.")
    parser.add_argument("suites", nargs="*", choices=[[], *SUITES], metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    figures: dict[str, float] = {}
    for suite in options.suites or SUITES:
        measure: Callable[[], dict[str, float]] = import_module(f"trt_perf.suites.{suite}").measure
        measured = measure()
        for name, value in measured.items():
            target = TARGETS.get(name)
            verdict = "" if target is None else f"  {'reached' if target.reached(value) else 'MISSED'} ({target})"
            sys.stdout.write(f"{suite:>9}  {name:<34} {value:>12.4g}{verdict}\n")
            sys.stdout.flush()
        figures |= measured
    if options.json:
        write_figures(options.json, figures)
    return 0 if all(target.reached(figures[name]) for name, target in TARGETS.items() if name in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
