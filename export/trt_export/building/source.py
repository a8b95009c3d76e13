"""A model that engines are built of: its architecture in the sizes that it has, and where its weights lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from trt_export.architectures.architecture import Architecture, ComponentSpec
from trt_export.architectures.measure import fitted, meta_module
from trt_export.architectures.registry import architecture
from trt_export.building.located import Located, locate
from trt_export.checkpoints.checkpoint import FOLDERS, Checkpoint, open_checkpoint
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
from trt_export.checkpoints.signatures import detect


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model that engines are built of."""

    name: str
    architecture: Architecture  # its components with the model's own configurations, parameters and costs
    checkpoint: Checkpoint


def open_source(model: str, models: Path | None = None, family: str | None = None) -> Source:
    """Find a model by its name, or open the checkpoint at a path.

    Args:
        model: a model folder's name; or a path: a diffusers folder, or a safetensors file of all networks.
        models: folder of further model folders.
        family: name of the architecture, where the files do not say it.

    Raises: UnreadableCheckpoint, UnknownArchitecture, ModelUnusable.
    """
    return open_located(locate(model, models), family)


def open_located(located: Located, family: str | None = None) -> Source:
    """As `open_source`, of a model that was found. Raises: UnreadableCheckpoint, UnknownArchitecture."""
    checkpoint = open_checkpoint(located.path)
    entry = architecture(family or located.family or detect(checkpoint))
    components = tuple(_component(entry, one, checkpoint) for one in entry.components)
    return Source(name=located.name, architecture=replace(entry, components=components), checkpoint=checkpoint)


def _component(entry: Architecture, component: ComponentSpec, checkpoint: Checkpoint) -> ComponentSpec:
    """The component as the model has it; a single file says no configuration, and has the architecture's own."""
    folder = next((one for one in FOLDERS[component.name] if one in checkpoint.parts), None)
    if folder is None:
        return component
    return _configured(entry.name, component.name, json.dumps(_config(checkpoint.path / folder / "config.json")))


@cache
def _configured(family: str, name: str, config: str) -> ComponentSpec:
    """A component of a configuration; of a smaller model of the family, with parameters and costs counted anew."""
    component = architecture(family).component(name).configured(json.loads(config))
    parameters = sum(weight.numel() for weight in meta_module(component).parameters())
    if parameters == component.parameters:
        return component
    return replace(component, parameters=parameters, cost=fitted(component))


def _config(file: Path) -> dict[str, Any]:
    """A network's configuration without the library's notes on it."""
    try:
        read: Mapping[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise UnreadableCheckpoint(f"{file} cannot be read as a network's configuration: {exc}") from exc
    return {key: value for key, value in read.items() if not key.startswith("_")}
