"""Join a graph to a checkpoint: initializers become byte ranges of its files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from trt_engines.bound_weights import BoundTensor, Piece, digest
from trt_export.graphs.exporter import parameters

ELEMENTS = {
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "F32": TensorProto.FLOAT,
    "F8_E4M3": TensorProto.FLOAT8E4M3FN,
}
"""ONNX' numbers for safetensors' words."""

CHUNK = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundGraph:
    """A graph whose weights are bytes of files beside it."""

    proto: onnx.ModelProto
    files: Mapping[str, Path]  # what each external location stands for
    weights: str  # digest over name, type, shape and content of every weight, hex
    weight_bytes: int


def bind_graph(
    graph: onnx.ModelProto, tensors: Iterable[BoundTensor], places: Mapping[Path, str] | None = None
) -> BoundGraph:
    """The graph with its weights where a checkpoint has them.

    A weight of another type than the graph's gets a Cast behind it, a float8 weight a DequantizeLinear with its scale
    (and a multiplication where it has one for each block),
    and one whose halves are swapped a Split and a Concat. Nothing is read but for the digest.

    Args: places: what each file is called in the graph's folder; None: plain names that are made here.

    Raises: ValueError: a weight of the graph is not among the tensors, or differs in shape.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(graph)
    bound = {tensor.name: tensor for tensor in tensors}
    places = _places(bound.values()) if places is None else places
    nodes: list[onnx.NodeProto] = []
    kept: list[TensorProto] = []
    for initializer in proto.graph.initializer:
        if initializer.data_location != TensorProto.EXTERNAL:
            kept.append(initializer)
            continue
        tensor = bound.get(initializer.name)
        if tensor is None or tensor.shape != tuple(initializer.dims):
            raise ValueError(f"the weight {initializer.name!r} {tuple(initializer.dims)} is not bound: {tensor}")
        made, steps = _initializers(tensor, initializer.data_type, places)
        kept += made
        nodes += steps
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    body = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *body])
    read = [bound[name] for name in sorted(parameters(graph))]
    return BoundGraph(
        proto=proto,
        files={place: file for file, place in places.items()},
        weights=digest(read),
        weight_bytes=sum(piece.length for tensor in read for piece in tensor.pieces),
    )


def link_files(bound: BoundGraph, folder: Path) -> None:
    """Make every external location of the graph resolve in `folder`, without copying.

    Symbolic links, for checkpoints may lie on another file system; TensorRT's parser follows them, while ONNX Runtime
    does not (it takes weights from memory, see `certificate.py`).
    """
    for place, file in bound.files.items():
        link = folder / place
        link.unlink(missing_ok=True)
        link.symlink_to(file.resolve())


def _places(tensors: Iterable[BoundTensor]) -> dict[Path, str]:
    """A location for each file: plain names, for parsers take no paths that lead out of the graph's folder."""
    found: dict[Path, str] = {}
    for tensor in tensors:
        for piece in tensor.ranges:
            found.setdefault(piece.file, f"weights-{len(found)}.safetensors")
    return found


def _initializers(
    tensor: BoundTensor, wanted: int, places: Mapping[Path, str]
) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """The stored values of a weight and the nodes that make the weight of them.

    Pieces in another order than the file's are parted after they have the graph's type: TensorRT takes a float8
    constant for nothing but a DequantizeLinear.
    """
    stored, piece = ELEMENTS[tensor.dtype], tensor.whole
    if stored == wanted and len(tensor.pieces) == 1:
        return [_external(tensor.name, stored, tensor.shape, piece, places)], []
    name = f"{tensor.name}.stored"
    typed = tensor.name if len(tensor.pieces) == 1 else f"{tensor.name}.typed" if stored != wanted else name
    made, nodes = [_external(name, stored, tensor.shape, piece, places)], []
    if tensor.scale is not None and tensor.grid:
        more, steps = _blocks(tensor, tensor.scale, name, typed, wanted, places)
        made += more
        nodes += steps
    elif tensor.scale is not None:
        scale = f"{tensor.name}.scale"
        made.append(_external(scale, TensorProto.FLOAT, (), tensor.scale, places))
        nodes.append(helper.make_node("Cast", [scale], [f"{scale}.cast"], name=f"{scale}.to", to=wanted))
        nodes.append(
            helper.make_node("DequantizeLinear", [name, f"{scale}.cast"], [typed], name=f"{tensor.name}.dequantize")
        )
    elif stored != wanted:
        nodes.append(helper.make_node("Cast", [name], [typed], name=f"{tensor.name}.cast", to=wanted))
    if len(tensor.pieces) > 1:
        nodes += _reordered(tensor, typed)
    return made, nodes


def _blocks(
    tensor: BoundTensor, piece: Piece, stored: str, typed: str, wanted: int, places: Mapping[Path, str]
) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """A float8 weight with a scale for each block, multiplied in float32 and rounded once.

    DequantizeLinear has blocks along one axis from opset 21 on, and none over two; a float8 constant may go into
    nothing else. So it is dequantised with 1, and multiplied in a shape that has the grid and the blocks as axes.
    """
    rows, columns = tensor.grid
    height, width = tensor.shape[0], math.prod(tensor.shape[1:])
    one, scale, split, whole = (f"{tensor.name}.{what}" for what in ("one", "scale", "blocks", "shape"))
    made = [
        helper.make_tensor(one, TensorProto.FLOAT, (), [1.0]),
        _external(scale, TensorProto.FLOAT, (rows, 1, columns, 1), piece, places),
        helper.make_tensor(split, TensorProto.INT64, (4,), [rows, height // rows, columns, width // columns]),
        helper.make_tensor(whole, TensorProto.INT64, (len(tensor.shape),), tensor.shape),
    ]
    names = [f"{tensor.name}.{step}" for step in ("values", "parted", "scaled", "joined")]
    nodes = [
        helper.make_node("DequantizeLinear", [stored, one], names[:1], name=f"{tensor.name}.dequantize"),
        helper.make_node("Reshape", [names[0], split], names[1:2], name=f"{tensor.name}.to_blocks"),
        helper.make_node("Mul", [names[1], scale], names[2:3], name=f"{tensor.name}.scale_blocks"),
        helper.make_node("Reshape", [names[2], whole], names[3:4], name=f"{tensor.name}.from_blocks"),
        helper.make_node("Cast", names[3:4], [typed], name=f"{tensor.name}.to", to=wanted),
    ]
    return made, nodes


def _reordered(tensor: BoundTensor, typed: str) -> list[onnx.NodeProto]:
    """Nodes that put equal pieces of `typed`, as they lie in the file, into the weight's order."""
    parts = {piece: f"{tensor.name}.part{number}" for number, piece in enumerate(tensor.pieces)}
    as_stored = [parts[piece] for piece in sorted(tensor.pieces, key=lambda piece: piece.offset)]
    split = helper.make_node(
        "Split", [typed], as_stored, name=f"{tensor.name}.split", axis=0, num_outputs=len(as_stored)
    )
    joined = helper.make_node("Concat", list(parts.values()), [tensor.name], name=f"{tensor.name}.join", axis=0)
    return [split, joined]


def _external(name: str, element: int, shape: tuple[int, ...], piece: Piece, places: Mapping[Path, str]) -> TensorProto:
    made = TensorProto(name=name, data_type=element, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", places[piece.file]), ("offset", piece.offset), ("length", piece.length)):
        made.external_data.add(key=key, value=str(value))
    return made
