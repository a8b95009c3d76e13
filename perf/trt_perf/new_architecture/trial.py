"""Add the new architecture in processes of their own, and count what it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = {
    "architectures": "trt_engines.architectures",
    "modules": "trt_engines.modules",
    "maps": "trt_export.checkpoints.maps",
}
"""Where the files of each folder belong."""


def new_files() -> tuple[Path, ...]:
    """The new architecture's files."""
    return tuple(sorted((HERE / "files").rglob("*.py")))


def changed_files() -> tuple[Path, ...]:
    """Those of its files that stand in for one that is there already."""
    return tuple(file for file in new_files() if find_spec(f"{PACKAGES[file.parent.name]}.{file.stem}") is not None)


def draw() -> dict[str, float]:
    """Likeness in dB of the picture that the new architecture draws in ONNX Runtime with others: of PyTorch, and of
    another prompt, guidance and source.

    Raises: RuntimeError: it cannot be added, or does not draw.
    """
    paths = [str(HERE / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "trt_perf.new_architecture.draw", folder],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"the new architecture does not draw: {done.stdout}{done.stderr[-4000:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found
