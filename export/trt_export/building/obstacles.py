"""Why an engine cannot be built although its weights are there, found before anything is exported."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from trt_engines.builders.preflight import Machine, obstacles
from trt_export.building.compiling import BUILDERS
from trt_export.building.order import Order
from trt_export.checkpoints.binding import StoredWeights
from trt_export.estimates import FLOAT8
from trt_export.measuring.measure import meta_module


def obstacles_of(order: Order, stored: StoredWeights, machine: Machine) -> tuple[str, ...]:
    """One sentence with a remedy for each reason; empty: nothing known speaks against it.

    Args: stored: what the model's files hold of the network.
    """
    request = order.request(Path(), compute_precision(order, stored.types))
    product = None
    if request.precision == "float32":
        modules = meta_module(order.module).named_modules()
        product = next((name for name, part in modules if isinstance(part, nn.Linear)), None)
    return obstacles(BUILDERS[order.library], request, order.needs, machine, product)


def compute_precision(order: Order, stored: frozenset[str]) -> str:
    """What an engine asks of a card: float8 where its weights are stored so.

    Args: stored: types of the weights, in safetensors' words.
    """
    return "float8" if FLOAT8 in stored else order.precision
