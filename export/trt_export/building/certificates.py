"""Certificates that were measured before, by everything that decides them: engines of one graph share one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from trt_engines.store.files import write_whole
from trt_engines.store.manifest import Certificate
from trt_export.graphs.cache import code_digest

LIBRARIES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime-gpu")
SOURCES = (
    "trt_engines/architectures",
    "trt_engines/modules",
    "trt_export/samples.py",
    "trt_export/building/certificate.py",
    "trt_export/graphs/widening.py",
)
"""Code that a certificate depends on, besides that which its graph does."""


class CertificateCache:
    """Certificates below one folder; several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, component: str, config: Mapping[str, Any], graph: str, weights: str) -> Path:
        """Where the certificate of a graph with certain weights is kept, whether or not it is there.

        Args:
            component: architecture and name, as in "sdxl/denoiser".
            graph: SHA-256 of the weightless graph.
            weights: digest of what was bound to it.
        """
        decides = {
            "component": component,
            "config": dict(config),
            "graph": graph,
            "weights": weights,
            "libraries": {name: version(name) for name in LIBRARIES},
            "code": code_digest(SOURCES),
        }
        name = hashlib.sha256(json.dumps(decides, sort_keys=True, default=repr).encode()).hexdigest()[:32]
        return self.root / f"{name}.json"

    def get(self, path: Path) -> Certificate | None:
        """The certificate that is kept at a place; None: there is none, or it cannot be read and is measured anew."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=Certificate)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def keep(self, path: Path, certificate: Certificate) -> None:
        """Write a certificate to its place, whole. Raises: OSError, StoreFull."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, msgspec.json.encode(certificate))
