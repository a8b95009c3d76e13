"""Graphs that were exported before, by everything that decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trt_engines
import trt_export
from trt_engines.store.files import write_whole

LIBRARIES = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx-ir")
SOURCES = ("trt_engines/architectures", "trt_engines/modules", "trt_export/graphs")
"""Code that a graph depends on: what its inputs and outputs are, what is between them, and how it is exported."""


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


_PACKAGES = {package.__name__: package.__path__[0] for package in (trt_engines, trt_export)}


@cache
def code_digest(parts: tuple[str, ...]) -> str:
    """SHA-256 of source files: other code may make other graphs.

    Args: parts: files and folders below our packages, as in "trt_export/graphs".

    Raises: FileNotFoundError: there is no such part.
    """
    total = hashlib.sha256()
    for part in parts:
        package, _, rest = part.partition("/")
        root = Path(_PACKAGES[package])
        place = root / rest
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        for file in files:
            total.update(f"{package}/{file.relative_to(root)}\n".encode())
            total.update(file.read_bytes())
    return total.hexdigest()
