"""What a model's files hold of its networks: bound to their full lists of weights, before anything is exported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import nn

from trt_export.building.source import Source
from trt_export.checkpoints.binding import StoredWeights, WeightsMissing, check, tensors_of
from trt_export.checkpoints.checkpoint import Checkpoint
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.published import published_file
from trt_export.checkpoints.quantised import quantisation, refusal
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
from trt_export.measuring.measure import meta_module


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What a model's files hold."""

    stored: Mapping[str, StoredWeights]  # of each network whose weights are all there
    problems: Mapping[str, str]  # why those of the others cannot be bound


def holdings(source: Source, components: Collection[str] = ()) -> Holdings:
    """Look for every weight of a model's networks; headers are read, and nothing is written.

    Args: components: to look for, by name; all without any.
    """
    stored, problems = {}, {}
    for name, module in source.modules.items():
        if components and name not in components:
            continue
        try:
            stored[name] = stored_weights(source.architecture.name, name, meta_module(module), source.checkpoint)
        except (UnreadableCheckpoint, WeightsMissing) as exc:
            problems[name] = str(exc)
    return Holdings(stored=stored, problems=problems)


def stored_weights(architecture: str, component: str, module: nn.Module, checkpoint: Checkpoint) -> StoredWeights:
    """What a checkpoint holds of a network, once it is known that all of it can be bound: types, and bytes.

    Args: module: the network, such as `meta_module` makes it.

    Raises: UnreadableCheckpoint, WeightsMissing: it cannot be bound; the message says which file to take where one is
        known.
    """
    state = module.state_dict()
    parameters = {name: tuple(weight.shape) for name, weight in state.items() if weight.is_floating_point()}
    tensors, tables = checkpoint.of(component), key_maps(architecture, component)
    own = tensors_of(parameters, tensors, tables)
    if kind := quantisation(own):
        raise UnreadableCheckpoint(
            refusal(kind, f"the {component} of {architecture}", own, published_file(architecture, component))
        )
    return check(parameters, tensors, tables)
