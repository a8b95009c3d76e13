"""What a MODEL on the command line stands for: an architecture, its configurations, and files of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_engines.model import find_models
from trt_export.architectures.architecture import Architecture, ComponentSpec
from trt_export.architectures.registry import architecture
from trt_export.checkpoints.checkpoint import FOLDERS, Checkpoint, open_checkpoint
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
from trt_export.checkpoints.signatures import detect, unsaid


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model that engines are built of."""

    name: str
    architecture: Architecture
    configs: Mapping[str, Mapping[str, Any]]  # of each component
    checkpoint: Checkpoint
    assumption: str | None = None  # what was taken for granted because no file says it, as a sentence for people


def open_source(
    model: str, models: Path | None = None, family: str | None = None, networks: Mapping[str, Path] | None = None
) -> Source:
    """Find a model by its name, or open the checkpoint at a path.

    Args:
        model: a model folder's name; or a path: a diffusers folder, a safetensors file of all networks or of the
            denoiser, or a folder of files that together are all networks.
        models: folder of further model folders.
        family: name of the architecture, where the files do not say it.
        networks: files or folders of single networks, as `open_checkpoint` takes them.

    Raises: UnreadableCheckpoint, UnknownArchitecture, ModelUnusable.
    """
    known = find_models([models] if models else [])
    if found := known.get(model):
        return _source(found.name, found.folder, family or found.architecture, networks or {})
    path = Path(model).expanduser()
    if not path.exists():
        names = ", ".join(sorted(known)) or "none"
        raise UnreadableCheckpoint(f"{model!r} is neither a file, a folder nor a known model; known are {names}")
    return _source(path.name if path.is_dir() else path.stem, path, family, networks or {})


def _source(name: str, path: Path, family: str | None, networks: Mapping[str, Path]) -> Source:
    checkpoint = open_checkpoint(path, networks)
    entry = architecture(family or detect(checkpoint))
    return Source(
        name=name,
        architecture=entry,
        configs={one.name: _config(one, path, networks) for one in entry.components},
        checkpoint=checkpoint,
        assumption=None if family else unsaid(entry.name),
    )


def _config(component: ComponentSpec, path: Path, networks: Mapping[str, Path]) -> Mapping[str, Any]:
    """A network's configuration: that of its diffusers folder, or of the architecture where it has none."""
    names = (component.name, *FOLDERS[component.name])
    given = next((networks[name] for name in names if name in networks), None)
    folder = given or next((path / name for name in names if (path / name).is_dir()), None)
    if folder is None or (given and not (given / CONFIG).is_file()):
        return component.config
    whole = _read(folder / CONFIG)
    read: dict[str, Any] = whole.get(
        "text_config", whole
    )  # the half that reads text of a model that looks at pictures as well
    return read | {key: component.config[key] for key in OURS if key in component.config}


def _read(file: Path) -> dict[str, Any]:
    """A configuration without the library's notes on it."""
    try:
        read = json.loads(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise UnreadableCheckpoint(f"{file} cannot be read as a network's configuration: {exc}") from exc
    return {key: value for key, value in read.items() if not key.startswith("_")}


CONFIG = "config.json"

OURS = ("taps",)
"""Keys of a configuration that no library's has: which layers of a language model are read."""
