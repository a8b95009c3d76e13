"""Why an engine cannot be built, found from the network and the checkpoint's headers before anything is exported."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from trt_engines.builders.preflight import Machine, obstacles
from trt_export.architectures.measure import meta_module
from trt_export.building.compiling import BUILDERS
from trt_export.building.order import Order
from trt_export.building.source import Source
from trt_export.checkpoints.binding import StoredWeights, WeightsMissing, check, tensors_of
from trt_export.checkpoints.checkpoint import Checkpoint
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.published import published_file
from trt_export.checkpoints.quantised import quantisation, refusal
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint


def obstacles_of(order: Order, source: Source, machine: Machine) -> tuple[str, ...]:
    """One sentence with a remedy for each reason; empty: nothing known speaks against it."""
    module = meta_module(order.component)
    try:
        stored = stored_weights(order.architecture, order.component.name, module, source.checkpoint)
    except (UnreadableCheckpoint, WeightsMissing) as exc:
        return (str(exc),)
    request = order.request(Path(), compute_precision(order, stored.types))
    product = None
    if request.precision == "float32":
        product = next((name for name, part in module.named_modules() if isinstance(part, nn.Linear)), None)
    return obstacles(BUILDERS[order.library], request, order.weight_bytes, machine, product)


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


def compute_precision(order: Order, stored: frozenset[str]) -> str:
    """What an engine asks of a card: float8 where its weights are stored so.

    Args: stored: types of the weights, in safetensors' words.
    """
    return "float8" if "F8_E4M3" in stored else order.precision
