"""What networks take of memory, as far as it can be told before they are loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trt_engines.backend import EngineSpec
from trt_engines.interface import Interface
from trt_engines.residency import Footprint
from trt_engines.sessions.session import ProfileShapes, covering
from trt_engines.store.manifest import DeviceMemory

LEAST_ACTIVATIONS = 32 * 2**20
"""What calls may need beyond the share of their shapes.

Activations that TensorRT-RTX 1.7.1 tells of the networks that ship, for 1 to 8 rows of 64 to 256 pixels: 9 to 238 MB,
and for the smaller shapes up to 24 MB more than in proportion to the largest.
"""


def single_precision(spec: EngineSpec) -> Footprint:
    """Of a network that computes in single precision: its weights, and the tensors that are bound; what a library
    allocates between layers is not counted, for none of them tells it.

    On the processor that is all there is of the weights. ONNX Runtime maps their files while it opens a graph and has
    let go of the mapping afterwards (1.31, stacks of matrix products of 64 and 128 MiB): in single precision its own
    memory grows by 1.0 of the file, and from half precision by 2.0 and what its allocator keeps for itself (0.8 there).
    """
    return Footprint(weights=4 * spec.parameters, tensors=spec.interface.bytes)


def built_engine(
    plan_bytes: int,
    memory: DeviceMemory | None,
    profiles: Sequence[ProfileShapes],
    interface: Interface,
    *,
    streams: bool,
) -> Footprint:
    """Of an engine that a library built, before it was ever loaded.

    Activations are what the builder told of the profile at its largest shapes; for smaller ones an estimate, until a
    context tells: in proportion to the input of most axes (latents or pixels), and LEAST_ACTIVATIONS more, but no more
    than it told. Where it told nothing, weights are the plan's size, and activations not counted.

    Args:
        interface: of the bucket; a profile must take it.
        streams: whether it was built so that its weights can stay in host memory.
    """
    weights = plan_bytes if memory is None else memory.weights
    activations = 0
    number = covering(tuple(profiles), interface)
    if memory is not None and number is not None:
        largest = max(interface.inputs, key=lambda one: len(one.shape))
        part, whole = math.prod(largest.shape), math.prod(profiles[number][largest.name].max)
        told = memory.activations[number]
        activations = min(told, told * part // whole + LEAST_ACTIVATIONS)
    return Footprint(
        weights=weights,
        activations=activations,
        tensors=interface.bytes,
        streamable=weights if streams else 0,
    )


def loading_bytes(plan_bytes: int, *, streams: bool) -> int:
    """Host memory that loading a plan takes: its mapped file while it is read, and where weights can be streamed, the
    library's copy of them all, which stays (TensorRT documentation, "Weight Streaming")."""
    return 2 * plan_bytes if streams else plan_bytes
