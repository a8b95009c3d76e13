"""Join a graph to a checkpoint: initializers become byte ranges of its files."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from trt_export.checkpoints.binding import BoundTensor, Piece
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


def bind_graph(graph: onnx.ModelProto, tensors: Iterable[BoundTensor]) -> BoundGraph:
    """The graph with its weights where a checkpoint has them.

    A weight of another type than the graph's gets a Cast behind it, a float8 weight a DequantizeLinear with its scale,
    and one in several pieces a Concat. Nothing is read but for the digest.

    Raises: ValueError: a weight of the graph is not among the tensors, or differs in shape.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(graph)
    bound = {tensor.name: tensor for tensor in tensors}
    places = _places(bound.values())
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


def digest(tensors: Iterable[BoundTensor]) -> str:
    """SHA-256 over name, type, shape and content of weights, wherever their bytes lie.

    Raises: OSError: a file cannot be read.
    """
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        for piece in (*tensor.pieces, *([tensor.scale] if tensor.scale else [])):
            _hash(piece, total)
    return total.hexdigest()


def _hash(piece: Piece, total: hashlib._Hash) -> None:
    with piece.file.open("rb") as stream:
        offset, end = piece.offset, piece.offset + piece.length
        while offset < end:
            data = os.pread(stream.fileno(), min(CHUNK, end - offset), offset)
            if not data:
                raise OSError(f"{piece.file} ends before its weights do")
            total.update(data)
            offset += len(data)


def _places(tensors: Iterable[BoundTensor]) -> dict[Path, str]:
    """A location for each file: plain names, for parsers take no paths that lead out of the graph's folder."""
    found: dict[Path, str] = {}
    for tensor in tensors:
        for piece in (*tensor.pieces, *([tensor.scale] if tensor.scale else [])):
            found.setdefault(piece.file, f"weights-{len(found)}.safetensors")
    return found


def _initializers(
    tensor: BoundTensor, wanted: int, places: Mapping[Path, str]
) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """The stored values of a weight and the nodes that make the weight of them."""
    stored = ELEMENTS[tensor.dtype]
    if stored == wanted and len(tensor.pieces) == 1:
        return [_external(tensor.name, stored, tensor.shape, tensor.pieces[0], places)], []
    made, nodes = [], []
    names = [f"{tensor.name}.stored{number}" for number in range(len(tensor.pieces))]
    per_row = math.prod(tensor.shape[1:]) * helper.tensor_dtype_to_np_dtype(stored).itemsize
    for name, piece in zip(names, tensor.pieces, strict=True):
        shape = (piece.length // per_row, *tensor.shape[1:]) if len(names) > 1 else tensor.shape
        made.append(_external(name, stored, shape, piece, places))
    current = names[0]
    if len(names) > 1:
        current = tensor.name if stored == wanted else f"{tensor.name}.joined"
        nodes.append(helper.make_node("Concat", names, [current], name=f"{tensor.name}.join", axis=0))
    if tensor.scale is not None:
        scale = f"{tensor.name}.scale"
        made.append(_external(scale, TensorProto.FLOAT, (), tensor.scale, places))
        typed = f"{scale}.cast"
        nodes.append(helper.make_node("Cast", [scale], [typed], name=f"{scale}.to", to=wanted))
        nodes.append(
            helper.make_node("DequantizeLinear", [current, typed], [tensor.name], name=f"{tensor.name}.dequantize")
        )
    elif stored != wanted:
        nodes.append(helper.make_node("Cast", [current], [tensor.name], name=f"{tensor.name}.cast", to=wanted))
    return made, nodes


def _external(name: str, element: int, shape: tuple[int, ...], piece: Piece, places: Mapping[Path, str]) -> TensorProto:
    made = TensorProto(name=name, data_type=element, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", places[piece.file]), ("offset", piece.offset), ("length", piece.length)):
        made.external_data.add(key=key, value=str(value))
    return made
