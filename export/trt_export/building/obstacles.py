"""Why an engine cannot be built, found from the network and the checkpoint's headers before anything is exported."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from trt_engines.builders.preflight import Machine, obstacles
from trt_export.architectures.measure import meta_module
from trt_export.building.compiling import BUILDERS
from trt_export.building.order import Order
from trt_export.building.source import Source
from trt_export.checkpoints.binding import WeightsMissing, stored_types
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint


def obstacles_of(order: Order, source: Source, machine: Machine) -> tuple[str, ...]:
    """One sentence with a remedy for each reason; empty: nothing known speaks against it."""
    module = meta_module(order.component)
    parameters = {name: tuple(weight.shape) for name, weight in module.named_parameters()}
    try:
        tensors = source.checkpoint.of(order.component.name)
        stored = stored_types(parameters, tensors, key_maps(order.architecture, order.component.name))
    except (UnreadableCheckpoint, WeightsMissing) as exc:
        return (str(exc),)
    request = order.request(Path(), compute_precision(order, stored))
    product = None
    if request.precision == "float32":
        product = next((name for name, part in module.named_modules() if isinstance(part, nn.Linear)), None)
    return obstacles(BUILDERS[order.library], request, order.weight_bytes, machine, product)


def compute_precision(order: Order, stored: frozenset[str]) -> str:
    """What an engine asks of a card: float8 where its weights are stored so.

    Args: stored: types of the weights, in safetensors' words.
    """
    return "float8" if "F8_E4M3" in stored else order.precision
