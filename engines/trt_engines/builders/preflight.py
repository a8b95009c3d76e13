"""Why a build cannot work, found before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from trt_engines.builders.builder import BuilderMissing, BuildRequest, EngineBuilder

_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a build has to live with."""

    memory_bytes: int  # free for a process, swap not counted
    disk_bytes: int  # free where engines are stored
    cards: frozenset[int] = frozenset()  # compute capabilities of the cards it holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a build takes of the machine."""

    memory_bytes: int  # most at one time
    disk_bytes: int  # of the engine


def obstacles(
    builder: EngineBuilder, request: BuildRequest, needs: Needs, machine: Machine, product: str | None
) -> tuple[str, ...]:
    """Why a build cannot work, one sentence with a remedy for each reason; empty: nothing known speaks against it.

    The graph of the request need not be there yet.

    Args:
        product: a matrix product in float32 of the network, by its name; None: it has none.
    """
    found: list[str] = []
    try:
        builder.version()
    except BuilderMissing as exc:
        found.append(str(exc))
    if reason := builder.refuses(request):
        found.append(reason)
    if not builder.ahead_of_time and (absent := set(request.compute_capabilities) - machine.cards):
        here = ", ".join(f"SM{sm}" for sm in sorted(machine.cards)) or "no card"
        found.append(
            f"{builder.name} builds for the card of this machine alone, which has {here} and not "
            f"{', '.join(f'SM{sm}' for sm in sorted(absent))}; build there, and import the archive here if need be "
            "(trt-worker engines import)"
        )
    if 75 in request.compute_capabilities and builder.name == "tensorrt-rtx" and product:
        found.append(
            f"{builder.name} has no float32 matrix product for SM75, and {product!r} is one; leave this network "
            "to the PyTorch fallback on Turing"
        )
    if needs.memory_bytes > machine.memory_bytes:
        fewer = ", ask for fewer profiles (--profiles)" if len(request.profiles) > 1 else ""
        found.append(
            f"building takes about {_gb(needs.memory_bytes)} of memory and {_gb(machine.memory_bytes)} are free; stop "
            f"other programs{fewer}, or build on another machine and import the archive (trt-worker engines import)"
        )
    if needs.disk_bytes > machine.disk_bytes:
        found.append(
            f"the engine takes about {_gb(needs.disk_bytes)} and {_gb(machine.disk_bytes)} are free where engines are "
            "stored; free some (trt-worker engines prune), or choose another folder with --store"
        )
    return tuple(found)


def float32_product(graph: Path) -> str | None:
    """The first matrix product in float32 of a graph, by its node's name; None: there is none.

    Types are inferred from the graph alone; weights are not read.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(graph, load_external_data=False))
    types: dict[str, int] = {value.name: value.type.tensor_type.elem_type for value in _values(model.graph)}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _PRODUCTS and types.get(node.input[0]) == onnx.TensorProto.FLOAT:
            return str(node.name or node.output[0])
    return None


def _values(graph: onnx.GraphProto) -> Sequence[onnx.ValueInfoProto]:
    return (*graph.input, *graph.value_info, *graph.output)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
