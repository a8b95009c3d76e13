"""A model that engines are built of: its architecture in the sizes that it has, and where its weights lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.registry import architecture
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.registry import MODULES, module_of
from trt_export.building.located import Located, locate
from trt_export.checkpoints.binding import holds
from trt_export.checkpoints.checkpoint import Checkpoint, open_checkpoint
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.recognition import recognise
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
from trt_export.measuring.measure import fitted, meta_module

CONFIG = "config.json"

OURS = ("taps",)
"""Keys of a configuration that no library's has: which layers of a language model are read."""

Networks = Mapping[str, Path]
"""Files or folders of single networks, as `open_checkpoint` takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model that engines are built of."""

    name: str
    architecture: Architecture  # its networks with the model's own sizes, parameters, costs and prediction
    modules: Mapping[str, ModuleSpec]  # by network, with the model's own configurations
    checkpoint: Checkpoint
    zero_terminal_snr: bool = False  # its noise levels end in pure noise
    assumption: str | None = None  # what was taken for granted because no file says it, as a sentence for people


def open_source(
    model: str, models: Path | None = None, family: str | None = None, networks: Networks = MappingProxyType({})
) -> Source:
    """Find a model by its name, or open the checkpoint at a path.

    Args:
        model: a model folder's name; or a path: a diffusers folder, a safetensors file of all networks or of the
            denoiser, or a folder of files that together are all networks.
        models: folder of further model folders.
        family: name of the architecture, where the files do not say it.

    Raises: UnreadableCheckpoint, UnknownArchitecture, ModelUnusable.
    """
    return open_located(locate(model, models, tuple(networks.items())), family)


def open_located(located: Located, family: str | None = None) -> Source:
    """As `open_source`, of a model that was found. Raises: UnreadableCheckpoint, UnknownArchitecture."""
    networks = dict(located.networks)
    checkpoint = open_checkpoint(located.path, networks)
    found = recognise(checkpoint, family or located.family)
    entry = architecture(found.architecture)
    modules = {one.name: _own(entry.name, one, checkpoint) for one in MODULES[entry.name]}
    return Source(
        name=located.name,
        architecture=replace(entry, networks=tuple(one.network for one in modules.values())).predicting(
            found.prediction,
            zero_terminal_snr=found.zero_terminal_snr,
            sigma_min=found.sigma_min,
            sigma_max=found.sigma_max,
        ),
        modules=modules,
        checkpoint=checkpoint,
        zero_terminal_snr=found.zero_terminal_snr,
        assumption=found.assumption,
    )


def _own(family: str, spec: ModuleSpec, checkpoint: Checkpoint) -> ModuleSpec:
    """The module as the model has it; a single file says no configuration, and has the architecture's own."""
    config = _config(spec, checkpoint) or _shortened(family, spec, checkpoint)
    if config is None:
        return spec
    return _configured(family, spec.name, json.dumps(config))


def _shortened(family: str, spec: ModuleSpec, checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    """The configuration without what the model's files lack, where some published files do; None: nothing of it."""
    if spec.lacking is None:
        return None
    weight, instead = spec.lacking
    try:
        tensors = checkpoint.of(spec.name)
    except UnreadableCheckpoint:
        return None  # said where its weights are asked for, and only if they are
    if holds(weight, tensors, key_maps(family, spec.name)):
        return None
    return {**spec.config, **instead}


@cache
def _configured(family: str, name: str, config: str) -> ModuleSpec:
    """A module of a configuration; of a smaller model of the family, with parameters and costs counted anew."""
    spec = module_of(family, name).configured(json.loads(config))
    parameters = sum(weight.numel() for weight in meta_module(spec).parameters())
    if parameters == spec.network.parameters:
        return spec
    return replace(spec, network=replace(spec.network, parameters=parameters, cost=fitted(spec)))


def _config(spec: ModuleSpec, checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    """What the folder that the network's weights are read from says of it; None: nothing."""
    try:
        place = checkpoint.place_of(spec.name)
    except UnreadableCheckpoint:
        return None  # said where its weights are asked for, and only if they are
    if place == checkpoint.path or not (place / CONFIG).is_file():  # a folder of all networks has no one's
        return None
    whole = _read(place / CONFIG)
    # The half that reads text, of a model that looks at pictures as well.
    read: Mapping[str, Any] = whole.get("text_config", whole)
    return {**read, **{key: spec.config[key] for key in OURS if key in spec.config}}


def _read(file: Path) -> dict[str, Any]:
    """A configuration without the library's notes on it."""
    try:
        read: Mapping[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise UnreadableCheckpoint(f"{file} cannot be read as a network's configuration: {exc}") from exc
    return {key: value for key, value in read.items() if not key.startswith("_")}
