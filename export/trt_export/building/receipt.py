"""What a finished build left: enough to know that the next one has nothing to do, without PyTorch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

import trt_engines
import trt_export
from trt_engines.store.errors import StoreError
from trt_engines.store.files import write_whole
from trt_engines.store.store import Store
from trt_engines.store.stored import Stored
from trt_export.building.located import Located, fingerprint

LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "onnx",
    "onnxscript",
    "onnx-ir",
    "onnxruntime-gpu",
    "tensorrt-rtx",
    "tensorrt",
)
"""Whose versions decide engines or their certificates."""


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A build after which everything that was asked for stood in the store."""

    made_of: str  # SHA-256 of everything that decides the engines
    engines: tuple[str, ...]  # digests


def standing(store: Store, located: Located, asked: Mapping[str, Any]) -> tuple[Stored, ...] | None:
    """The engines of an earlier build of the same, if every one of them can still be served; None: build.

    Args:
        asked: what the command was told, as plain values.

    Raises: OSError: the model's files cannot be read.
    """
    try:
        receipt = msgspec.json.decode(_place(store, located, asked).read_bytes(), type=Receipt)
        if receipt.made_of != _made_of(located, asked):
            return None
        engines = tuple(store.get(name) for name in receipt.engines)
    except (FileNotFoundError, msgspec.DecodeError, StoreError):
        return None  # the build itself finds out what is wrong, and mends it or says it
    return engines if all(engine.manifest.passed for engine in engines) else None


def keep(store: Store, located: Located, asked: Mapping[str, Any], engines: Iterable[str]) -> None:
    """Note that these engines are all that was asked for. Raises: StoreFull, OSError."""
    place = _place(store, located, asked)
    place.parent.mkdir(parents=True, exist_ok=True)
    receipt = Receipt(made_of=_made_of(located, asked), engines=tuple(engines))
    write_whole(place, msgspec.json.encode(receipt))


def _place(store: Store, located: Located, asked: Mapping[str, Any]) -> Path:
    """One file for each model and way to ask: a changed model overwrites its receipt."""
    return store.root / "receipts" / f"{_hash([str(located.path), asked])[:32]}.json"


def _made_of(located: Located, asked: Mapping[str, Any]) -> str:
    return _hash([fingerprint(located), located.family, asked, _versions(), _code()])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


@cache
def _code() -> str:
    """SHA-256 of this worker's own code: another version may plan or export otherwise."""
    total = hashlib.sha256()
    for package in (trt_engines, trt_export):
        root = Path(package.__path__[0])
        for file in sorted(root.rglob("*.py")):
            total.update(f"{file.relative_to(root)}\n".encode())
            total.update(file.read_bytes())
    return total.hexdigest()
