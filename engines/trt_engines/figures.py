"""Figures as JSON: what a command measured, on which machine, at which commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import orjson
import psutil


def machine() -> dict[str, object]:
    """The machine the figures are from."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit this code is at, with a mark when files differ from it; "unknown" outside a checkout."""
    folder = Path(__file__).parent
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=folder,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},  # the rest may hold secrets
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def write_figures(path: Path, figures: Mapping[str, object], **details: object) -> None:
    """Write `{"figures": ..., "machine": ..., "commit": ...}`, and details that are no numbers beside them.

    Raises: OSError: the file cannot be written.
    """
    document = {"figures": dict(figures), "machine": machine(), "commit": commit(), **details}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
