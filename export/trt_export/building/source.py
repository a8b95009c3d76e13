"""What a MODEL on the command line stands for: an architecture, its configurations, and files of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_engines.model import find_models
from trt_export.architectures.architecture import Architecture
from trt_export.architectures.registry import architecture
from trt_export.checkpoints.checkpoint import FOLDERS, Checkpoint, open_checkpoint
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
from trt_export.checkpoints.signatures import detect


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model that engines are built of."""

    name: str
    architecture: Architecture
    configs: Mapping[str, Mapping[str, Any]]  # of each component
    checkpoint: Checkpoint


def open_source(model: str, models: Path | None = None, family: str | None = None) -> Source:
    """Find a model by its name, or open the checkpoint at a path.

    Args:
        model: a model folder's name; or a path: a diffusers folder, or a safetensors file of all networks.
        models: folder of further model folders.
        family: name of the architecture, where the files do not say it.

    Raises: UnreadableCheckpoint, UnknownArchitecture, ModelUnusable.
    """
    known = find_models([models] if models else [])
    if found := known.get(model):
        return _source(found.name, found.folder, family or found.architecture)
    path = Path(model).expanduser()
    if not path.exists():
        names = ", ".join(sorted(known)) or "none"
        raise UnreadableCheckpoint(f"{model!r} is neither a file, a folder nor a known model; known are {names}")
    return _source(path.name if path.is_dir() else path.stem, path, family)


def _source(name: str, path: Path, family: str | None) -> Source:
    checkpoint = open_checkpoint(path)
    entry = architecture(family or detect(checkpoint))
    configs = {}
    for component in entry.components:
        folder = next((one for one in FOLDERS[component.name] if one in checkpoint.parts), None)
        configs[component.name] = _config(path / folder / "config.json") if folder else component.config
    return Source(name=name, architecture=entry, configs=configs, checkpoint=checkpoint)


def _config(file: Path) -> dict[str, Any]:
    """A network's configuration without the library's notes on it."""
    try:
        read = json.loads(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise UnreadableCheckpoint(f"{file} cannot be read as a network's configuration: {exc}") from exc
    return {key: value for key, value in read.items() if not key.startswith("_")}
