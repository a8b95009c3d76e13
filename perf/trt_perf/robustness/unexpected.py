"""What an unexpected exception at any place of a job's way costs the other jobs, in both processes.

The places are found by walking the source (`points`), and each is made to throw (`device_strikes`, `strikes`), in a
process of its own: its modules are compiled with their points.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from loguru import logger

from trt_perf.robustness import points

ROOT = Path(__file__).parents[3]
LIMIT_SECONDS = 900.0
HALVES = ("device", "supervisor")


def measure(halves: Sequence[str] = HALVES) -> dict[str, float]:
    """The figures of the suite. Args: halves: the processes whose points are tried, of `HALVES`."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, *halves], stdout=subprocess.PIPE, check=True, timeout=LIMIT_SECONDS, cwd=ROOT
    )
    told = json.loads(done.stdout.splitlines()[-1])
    for note in told["notes"]:
        logger.warning("{}", note)
    figures: dict[str, float] = told["figures"]
    return figures


def main() -> None:
    """Try every point of the processes that are named, and write the figures as a line of JSON."""
    points.instrument()
    for module in points.modules_on_the_way(ROOT):
        import_module(module)
    device_half = import_module("trt_perf.robustness.device_strikes").device_half
    supervisor_half = import_module("trt_perf.robustness.strikes").supervisor_half
    logger.remove()
    notes: list[str] = []
    lost, tried = 0, list[int]()
    for half in sys.argv[1:]:
        tried += points.numbers(device=half == "device")
        lost += device_half(notes) if half == "device" else supervisor_half(notes)
    missing = [str(points.points[number]) for number in tried if number not in points.fired]
    notes += [f"not tried: {point}" for point in missing]
    figures = {
        "unexpected_points": len(tried) - len(missing),
        "unexpected_points_missing": len(missing),
        "jobs_lost": lost,
    }
    sys.stdout.write(json.dumps({"figures": figures, "notes": notes}) + "\n")


if __name__ == "__main__":
    main()
