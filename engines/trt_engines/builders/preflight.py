"""Why a build cannot work, found before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from trt_engines.builders.builder import BuilderMissing, BuildRequest, EngineBuilder

MEMORY_PER_WEIGHT_BYTE = 3.5
"""Peak memory of a build over the bytes of its weights: 5.7 GB of 1.72 and 17.6 of 5.1 were seen with RTX 1.7."""

MEMORY_BESIDE_WEIGHTS = 2**30
"""What a builder takes for a network without weights, bytes."""

DISK_PER_WEIGHT_BYTE = 1.1
"""A plan over the bytes of its weights: 1.802 over 1.72 GB with four profiles was the most seen."""

_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a build has to live with."""

    memory_bytes: int  # free for a process, swap not counted
    disk_bytes: int  # free where engines are stored


def obstacles(builder: EngineBuilder, request: BuildRequest, weight_bytes: int, machine: Machine) -> tuple[str, ...]:
    """Why a build cannot work, one sentence with a remedy for each reason; empty: nothing known speaks against it.

    Args:
        weight_bytes: of all weights as the builder reads them.
    """
    found: list[str] = []
    try:
        builder.version()
    except BuilderMissing as exc:
        found.append(str(exc))
    if reason := builder.refuses(request):
        found.append(reason)
    if (
        75 in request.compute_capabilities
        and builder.name == "tensorrt-rtx"
        and (node := float32_product(request.graph))
    ):
        found.append(
            f"{builder.name} has no float32 matrix product for SM75, and node {node!r} of {request.graph.name} is one; "
            "build this network in float16, or leave it to the PyTorch fallback on Turing"
        )
    memory = int(weight_bytes * MEMORY_PER_WEIGHT_BYTE) + MEMORY_BESIDE_WEIGHTS
    if memory > machine.memory_bytes:
        found.append(
            f"building takes about {_gb(memory)} of memory and {_gb(machine.memory_bytes)} are free; stop other "
            "programs, build with fewer --jobs, or build on another machine and import the archive "
            "(trt-worker engines import)"
        )
    disk = int(weight_bytes * DISK_PER_WEIGHT_BYTE)
    if disk > machine.disk_bytes:
        found.append(
            f"the engine takes about {_gb(disk)} and {_gb(machine.disk_bytes)} are free where engines are stored; "
            "free some (trt-worker engines prune), or choose another folder with --store"
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
