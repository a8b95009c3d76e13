"""What a model's files hold of its networks: bound to their full lists of weights, before anything is exported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from trt_export.building.source import Source
from trt_export.checkpoints.binding import PREFIX, StoredWeights, WeightsMissing, check
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.random_checkpoint import parameters_of
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint


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
    for component in source.architecture.components:
        name = component.name
        if components and name not in components:
            continue
        parameters = {PREFIX + weight: shape for weight, shape in parameters_of(component).items()}
        try:
            tensors = source.checkpoint.of(name)
            stored[name] = check(parameters, tensors, key_maps(source.architecture.name, name))
        except (UnreadableCheckpoint, WeightsMissing) as exc:
            problems[name] = str(exc)
    return Holdings(stored=stored, problems=problems)
