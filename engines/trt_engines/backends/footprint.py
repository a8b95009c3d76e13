"""What a network takes where it computes in single precision from weights stored in half."""

from __future__ import annotations

from trt_engines.backend import EngineSpec
from trt_engines.interface import interface_of
from trt_engines.residency import Footprint


def single_precision(spec: EngineSpec) -> Footprint:
    """Weights at twice their file, and the tensors that are bound; what a library allocates between layers is not
    counted, for none of them tells it beforehand."""
    weights = spec.model.weights[spec.component].stat().st_size
    return Footprint(weights=2 * weights, tensors=interface_of(spec).bytes)
