"""What a built engine takes of a card and of the machine, told before it is loaded."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trt_engines.backends.footprint import LEAST_ACTIVATIONS, built_engine, loading_bytes
from trt_engines.interface import Interface, TensorSpec
from trt_engines.residency import Footprint
from trt_engines.sessions.session import ShapeRange
from trt_engines.store.manifest import DeviceMemory

FLOAT = np.dtype(np.float32)
SMALL, LARGE = (
    {
        "sample": ShapeRange(min=(1, 4, 8, 8), opt=(rows, 4, 8, 8), max=(rows, 4, side, side)),
        "timestep": ShapeRange(min=(1,), opt=(rows,), max=(rows,)),
    }
    for rows, side in ((2, 8), (8, 64))
)
TOLD = 8 * 64 * 64 * 10_000
MEMORY = DeviceMemory(weights=900, activations=(100, TOLD))


def an_interface(rows: int, side: int) -> Interface:
    sample = TensorSpec(name="sample", shape=(rows, 4, side, side), dtype=FLOAT)
    return Interface(inputs=(sample, TensorSpec(name="timestep", shape=(rows,), dtype=FLOAT)), outputs=(sample,))


def test_a_profile_at_its_largest_shapes_takes_what_the_builder_told() -> None:
    interface = an_interface(8, 64)

    assert built_engine(1000, MEMORY, (SMALL, LARGE), interface, streams=False) == Footprint(
        weights=900, activations=TOLD, tensors=interface.bytes
    )


def test_the_profile_that_serves_a_bucket_decides() -> None:
    assert built_engine(1000, MEMORY, (SMALL, LARGE), an_interface(2, 8), streams=False).activations == 100


@given(rows=st.integers(1, 8), side=st.integers(9, 64))
def test_smaller_shapes_take_their_share_and_a_rest_and_never_more_than_the_largest(rows: int, side: int) -> None:
    found = built_engine(1000, MEMORY, (SMALL, LARGE), an_interface(rows, side), streams=False)

    assert found.activations == min(TOLD, rows * side * side * 10_000 + LEAST_ACTIVATIONS)


def test_where_the_builder_told_nothing_the_plan_stands_for_the_weights() -> None:
    interface = an_interface(8, 64)

    assert built_engine(1000, None, (LARGE,), interface, streams=True) == Footprint(
        weights=1000, tensors=interface.bytes, streamable=1000
    )


def test_weights_that_can_be_streamed_are_twice_in_memory_while_they_are_loaded() -> None:
    assert (loading_bytes(1000, streams=False), loading_bytes(1000, streams=True)) == (1000, 2000)
