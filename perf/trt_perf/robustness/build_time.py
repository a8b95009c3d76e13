"""Whether a build takes the time that was planned: of the model that ships, and of full-size Stable Diffusion 1.5."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson

from trt_perf.full_size import SD15, random_checkpoint
from trt_perf.progress import Progress

CARD = "SM86"


def measure() -> dict[str, float]:
    """Seconds of `build` over those that `build --dry-run` told, and what of them certification takes.

    Stable Diffusion is built with one profile of each engine: it takes minutes as it is, and further profiles would
    make certification the smaller part.
    """
    progress = Progress()
    figures = {}
    with tempfile.TemporaryDirectory(prefix="trt-worker-bench-") as name:
        folder = Path(name)
        tiny, _ = planned_and_taken("shapes-tiny", folder / "tiny", progress)
        figures["build_seconds_over_planned_shapes_tiny"] = tiny
        with random_checkpoint(SD15, folder, 2, progress) as checkpoint:
            figures["build_seconds_over_planned_sd15"], figures["certify_share"] = planned_and_taken(
                str(checkpoint), folder / "sd15", progress, "--profiles", "1"
            )
    return figures


def planned_and_taken(model: str, store: Path, progress: Progress, *options: str) -> tuple[float, float]:
    """Build a model into an empty store.

    Returns: seconds over the planned ones, and the share of certification in all phases.

    Raises: RuntimeError: not everything was built; with what the command said.
    """
    planned = _command(model, store, *options, "--dry-run")["planned_seconds"]
    began = perf_counter()
    built = _command(model, store, *options)
    taken = perf_counter() - began
    phases: dict[str, float] = {}
    for engine in built["engines"]:
        for phase, seconds in engine["phases"].items():
            phases[phase] = phases.get(phase, 0.0) + seconds
    told = ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in phases.items())
    progress.say(f"{Path(model).name}: {planned:.0f} s planned, {taken:.0f} s taken ({told})")
    return taken / planned, phases["certify"] / taken


def _command(model: str, store: Path, *options: str) -> Mapping[str, Any]:
    """The figures of a build for SM86, with the profiles of the default histogram."""
    report = store.with_suffix(".json")
    arguments = ("build", model, "--gpu", CARD, "--store", str(store), "--json", str(report), *options)
    answer = subprocess.run(
        [sys.executable, "-m", "trt_worker", *arguments], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise RuntimeError(f"build {model} ended with {answer.returncode}: {answer.stderr or answer.stdout}")
    figures: Mapping[str, Any] = orjson.loads(report.read_bytes())["figures"]
    return figures
