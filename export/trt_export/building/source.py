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
from trt_export.checkpoints.safetensors_file import StoredTensor, UnreadableCheckpoint, read_header

FOLDERS: Mapping[str, tuple[str, ...]] = {
    "text_encoder": ("text_encoder",),
    "text_encoder_2": ("text_encoder_2",),
    "denoiser": ("unet", "transformer", "prior"),
    "denoiser_stage_b": ("decoder",),
    "vae_decoder": ("vae", "vqgan"),
    "vae_encoder": ("vae", "vqgan"),
}
"""Where a diffusers folder keeps the networks of an architecture, the first that is there."""

PICKLED = frozenset({".ckpt", ".pt", ".pth", ".bin"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model that engines are built of."""

    name: str
    architecture: Architecture
    configs: Mapping[str, Mapping[str, Any]]  # of each component
    tensors: Mapping[str, Mapping[str, StoredTensor]]  # of each component's files, by their names there

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of weights."""
        return tuple(sorted({one.file for tensors in self.tensors.values() for one in tensors.values()}))


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
        return _folder(found.name, found.folder, architecture(family or found.architecture))
    path = Path(model).expanduser()
    if path.is_dir():
        return _folder(path.name, path, architecture(_named(family, path)))
    if path.suffix in PICKLED:
        raise UnreadableCheckpoint(
            f"{path} is a pickle: reading it runs code from whoever made it. Convert it once, in a process that runs "
            f"none: trt-worker convert {path} {path.with_suffix('.safetensors')}"
        )
    if not path.is_file():
        names = ", ".join(sorted(known)) or "none"
        raise UnreadableCheckpoint(f"{model!r} is neither a file, a folder nor a known model; known are {names}")
    entry = architecture(_named(family, path))
    tensors = read_header(path)
    return Source(
        name=path.stem,
        architecture=entry,
        configs={one.name: one.config for one in entry.components},
        tensors={one.name: tensors for one in entry.components},
    )


def _named(family: str | None, path: Path) -> str:
    if family is None:
        raise UnreadableCheckpoint(
            f"{path} does not say what architecture it is of; name it with --architecture (trt-worker plan lists them)"
        )
    return family


def _folder(name: str, folder: Path, entry: Architecture) -> Source:
    """A diffusers folder: each network with its configuration and its files."""
    configs, tensors = {}, {}
    for component in entry.components:
        place = next((folder / one for one in FOLDERS[component.name] if (folder / one).is_dir()), None)
        if place is None:
            raise UnreadableCheckpoint(
                f"{folder} has no folder {' or '.join(FOLDERS[component.name])} for the {component.name} of "
                f"{entry.title}"
            )
        configs[component.name] = _config(place / "config.json")
        files = sorted(place.glob("*.safetensors"))
        if not files:
            raise UnreadableCheckpoint(f"{place} holds no .safetensors file")
        tensors[component.name] = {key: one for file in files for key, one in read_header(file).items()}
    return Source(name=name, architecture=entry, configs=configs, tensors=tensors)


def _config(file: Path) -> dict[str, Any]:
    """A network's configuration without the library's notes on it."""
    try:
        read = json.loads(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise UnreadableCheckpoint(f"{file} cannot be read as a network's configuration: {exc}") from exc
    return {key: value for key, value in read.items() if not key.startswith("_")}
