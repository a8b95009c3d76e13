"""What a model's folder holds of its networks: graphs that compute in float32, bindings, and links to the weights.

No weight is copied but those that cannot be bound where they lie. The graph of a network is exported once for all
models of its architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from trt_engines.bound_weights import bindings
from trt_engines.description import DescribedNetwork
from trt_engines.modules.registry import module_of
from trt_engines.store.files import write_whole
from trt_export.adding.staging import SIDE
from trt_export.building.source import Source
from trt_export.checkpoints.binding import bind
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.graphs.bound import bind_graph
from trt_export.graphs.exporter import parameters

SERVED_AS = "float32"
"""Precision of the graphs that are served: of constants that were rounded to half precision (such as the scale of an
attention) nothing gives the lost digits back."""


def write_network(
    source: Source, network: str, graph: bytes, folder: Path, names: Mapping[Path, str]
) -> DescribedNetwork:
    """Write a network's files. Returns: what the model's description says of them.

    Args:
        graph: weightless, in the precision SERVED_AS.
        names: what the checkpoint's files are called in the folder, where they are links; they need not be there yet.

    Raises: WeightsMissing, UnreadableCheckpoint, ValueError: the graph wants other weights; OSError, StoreFull.
    """
    module = source.modules[network]
    proto = onnx.load_model_from_string(graph)
    side = folder / SIDE.format(network)
    tables = key_maps(source.architecture.name, network)
    weights = bind(parameters(proto), source.checkpoint.of(network), tables, side)
    read = {piece.file for one in weights for piece in one.ranges}
    places = {file: name for file, name in {**names, side: side.name}.items() if file in read}
    bound = bind_graph(proto, weights, places)
    graph_file, bindings_file = folder / f"{network}.onnx", folder / f"{network}.weights.json"
    write_whole(graph_file, bound.proto.SerializeToString())
    usual = module_of(source.architecture.name, network).config
    config = None if module.config == usual else module.config
    write_whole(bindings_file, bindings(weights, places, config))
    return DescribedNetwork(
        graph=graph_file.name,
        bindings=bindings_file.name,
        weights=tuple(places.values()),
        digest=bound.weights,
        parameters=module.network.parameters,
    )
