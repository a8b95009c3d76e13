"""Graphs that were exported before, by everything that decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trt_engines.store.files import write_whole

LIBRARIES = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx-ir")
SOURCES = ("modules", "graphs")
"""Parts of this package that a graph depends on."""


class GraphCache:
    """Weightless graphs below one folder; several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, component: str, config: Mapping[str, Any], precision: str) -> Path:
        """Where the graph of a network is kept, whether or not it is there.

        Args:
            component: architecture and name, as in "sdxl/denoiser".
        """
        decides = {
            "component": component,
            "config": dict(config),
            "precision": precision,
            "libraries": {name: version(name) for name in LIBRARIES},
            "code": code_digest(SOURCES),
        }
        name = hashlib.sha256(json.dumps(decides, sort_keys=True, default=repr).encode()).hexdigest()[:16]
        return self.root / f"{component.replace('/', '-')}-{precision}-{name}.onnx"

    def keep(self, path: Path, graph: bytes) -> None:
        """Write a graph to its place, whole. Raises: OSError, StoreFull."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, graph)


@cache
def code_digest(parts: tuple[str, ...]) -> str:
    """SHA-256 of the source files of parts of this package: other code may make other graphs."""
    package = Path(__file__).parent.parent
    total = hashlib.sha256()
    for part in parts:
        place = package / part
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            total.update(f"{file.relative_to(package)}\n".encode())
            total.update(file.read_bytes())
    return total.hexdigest()
