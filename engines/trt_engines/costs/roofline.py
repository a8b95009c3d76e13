"""Seconds of a call, a kernel and a copy on a card.

A call takes the sum of what its kernels take, since they run one after the other:

    products   FLOPs / peak + FLOPs / feed      tensor cores wait for operands the longer, the faster they are
    memory     bytes / bandwidth * traffic     less what is still in the cache when the next kernel asks for it
    filling    kernels * ramp / clock          until a kernel occupies the whole card, and while its last blocks end

all at the clock that the board's power sustains; and never less than what the host takes to start its operations, if
no CUDA graph does that. Occupancy is products and memory over the whole: it grows with rows times pixels, and what
more rows gain is that filling is paid once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from trt_engines.costs.hardware import Arithmetic, Hardware
from trt_engines.costs.work import Work


class Launch(StrEnum):
    """How kernels get started."""

    GRAPH = "graph"  # all at once, by a CUDA graph
    COMPILED = "compiled"  # by the host, kernel by kernel, half of the operations between them fused away
    EAGER = "eager"  # by the host, operation by operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What the model cannot derive from a card's specification."""

    feed: float  # FLOPs whose operands reach the tensor cores of one multiprocessor in a cycle
    traffic: float  # seconds per byte that misses the cache, over those at the listed bandwidth
    cached: float  # share of the cache in which what a kernel wrote waits for the next one
    ramp: float  # cycles in which a kernel does not fill the card
    host_launch: float  # seconds of the host per operation
    power: float  # watts of a board per multiprocessor and GHz squared, under a full load
    plain_share: float  # of the peak that matrix products outside of tensor cores reach


CONSTANTS = Constants(
    feed=6449.0,
    traffic=1.129,
    cached=0.1745,
    ramp=21_280.0,
    host_launch=26.47e-6,
    power=0.5535,
    plain_share=0.7769,
)
"""Fitted on half of the published speeds (`trt_perf.cost_fit`), checked on the other half."""

LINK_SHARE = 0.8
"""Estimate: share of a link's listed rate that large copies from pinned memory reach."""

COPY_LATENCY = 10e-6
"""Estimate: seconds until a copy that was started moves its first byte."""


def evaluation_seconds(
    work: Work,
    hardware: Hardware,
    arithmetic: Arithmetic,
    launch: Launch = Launch.GRAPH,
    constants: Constants = CONSTANTS,
) -> float:
    """Seconds of one call of a network.

    Raises: ValueError: the card does not compute in this arithmetic.
    """
    busy = _products(work, hardware, arithmetic, constants) + _memory(work, hardware, arithmetic, constants)
    device = busy + work.kernels * ramp_seconds(hardware, constants)
    if launch is Launch.GRAPH:
        return device
    started = work.operations if launch is Launch.EAGER else (work.operations + work.kernels) / 2
    return max(device, started * constants.host_launch)


def occupancy(work: Work, hardware: Hardware, arithmetic: Arithmetic, constants: Constants = CONSTANTS) -> float:
    """Share of a graph's time in which the card computes or moves at its full rate, 0..1."""
    busy = _products(work, hardware, arithmetic, constants) + _memory(work, hardware, arithmetic, constants)
    return busy / evaluation_seconds(work, hardware, arithmetic, Launch.GRAPH, constants)


def kernel_seconds(
    moved_bytes: float, hardware: Hardware, *, graph: bool = True, constants: Constants = CONSTANTS
) -> float:
    """Seconds of one elementwise kernel. Args: moved_bytes: read and written."""
    device = moved_bytes / hardware.card.bandwidth * constants.traffic + ramp_seconds(hardware, constants)
    return device if graph else max(device, constants.host_launch)


def copy_seconds(size: float, hardware: Hardware) -> float:
    """Seconds of one copy between pinned host memory and the card, either way. Args: size: bytes."""
    return COPY_LATENCY + size / (hardware.link * LINK_SHARE)


def sustained_clock(hardware: Hardware, constants: Constants = CONSTANTS) -> float:
    """Hz under a full load: the boost clock, or what the board's power allows.

    Power per multiprocessor follows the square of the clock: between linear at a fixed voltage and cubic where voltage
    follows the clock. A board of 72 W with the multiprocessors of one of 200 W runs at little over half of its clock.
    """
    allowed = 1e9 * math.sqrt(hardware.watts / (hardware.multiprocessors * constants.power))
    return min(hardware.clock, allowed)


def ramp_seconds(hardware: Hardware, constants: Constants = CONSTANTS) -> float:
    """Seconds that each kernel leaves the card partly idle."""
    return constants.ramp / sustained_clock(hardware, constants)


def _products(work: Work, hardware: Hardware, arithmetic: Arithmetic, constants: Constants) -> float:
    clock = sustained_clock(hardware, constants)
    peak = hardware.peak(arithmetic) * clock / hardware.clock
    if arithmetic is Arithmetic.FLOAT32 or not hardware.card.tensor_cores:
        return work.flops / (peak * constants.plain_share)
    return work.flops / peak + work.flops / (constants.feed * hardware.multiprocessors * clock)


def _memory(work: Work, hardware: Hardware, arithmetic: Arithmetic, constants: Constants) -> float:
    scale = arithmetic.value_bytes / 2
    activations = work.activation_bytes * scale
    each = activations / work.kernels
    missed = each / (each + constants.cached * hardware.cache)
    moved = work.weight_bytes * scale + activations * missed
    return moved / hardware.card.bandwidth * constants.traffic
