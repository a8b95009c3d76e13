"""A checkpoint that is to be added, or was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trt_engines.description import Source
from trt_export.building.located import Located, fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A checkpoint that is to be added."""

    path: Path  # a safetensors file, a pickle, a diffusers folder, or a folder of split files as ComfyUI has them
    name: str | None = None  # of the model; None: the file's or folder's
    networks: Mapping[str, Path] = field(default_factory=dict)  # files of single networks that lie elsewhere
    family: str | None = None  # name of the architecture, where the files do not say it
    baseline: str | None = None  # what a network calls the architecture, as its owner says; its files are asked, too

    @property
    def model(self) -> str:
        """The model's name."""
        if self.name is not None:
            return self.name
        return self.path.name if self.path.is_dir() else self.path.stem

    @property
    def located(self) -> Located:
        """Where its weights lie."""
        return Located(name=self.model, path=self.path, networks=tuple(self.networks.items()))


def looks_of(wanted: Wanted) -> str:
    """What tells that a checkpoint has changed; empty: it cannot be looked at."""
    try:
        return fingerprint(wanted.located)
    except OSError:
        return ""


def of_source(name: str, source: Source) -> Wanted:
    """The checkpoint of a model that was added."""
    networks = {network: Path(file) for network, file in source.networks.items()}
    return Wanted(path=Path(source.path), name=name, networks=networks, family=source.architecture)
