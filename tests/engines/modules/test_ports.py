"""Every module takes and gives its network's ports."""

from __future__ import annotations

import inspect

import pytest
import torch

from trt_engines.architectures.axis import Quantity
from trt_engines.architectures.tensor import Kind
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.registry import networks
from trt_export.graphs.examples import example_inputs

TYPES = {Kind.REAL: torch.bfloat16, Kind.FLOAT32: torch.float32, Kind.INT64: torch.int64, Kind.BOOL: torch.bool}
EACH = [
    pytest.param(spec, id=f"{entry.name}-{spec.name}")
    for entry, spec in networks(lambda one: (one.make, one.inputs, one.outputs, repr(one.config))).values()
]
BUCKETS = (
    {Quantity.ROWS: 3, Quantity.WIDTH: 192, Quantity.HEIGHT: 128, Quantity.TOKENS: 96},
    {Quantity.ROWS: 2, Quantity.WIDTH: 136, Quantity.HEIGHT: 264, Quantity.TOKENS: 160},
)
"""No two sizes of one alike, and none of the other's: an axis that stands for another one shows."""


@pytest.mark.parametrize("spec", EACH)
def test_a_module_takes_its_networks_inputs_by_name_and_order_and_gives_its_outputs(spec: ModuleSpec) -> None:
    spec = spec.small
    with torch.device("meta"):
        module = spec.make(spec.config).to(torch.bfloat16)
    assert tuple(inspect.signature(module.forward).parameters)[: len(spec.inputs)] == tuple(
        tensor.name for tensor in spec.inputs
    )

    for sizes in BUCKETS:
        with torch.device("meta"), torch.no_grad():
            given = module(*example_inputs(spec, sizes, torch.bfloat16))

        given = given if isinstance(given, tuple) else (given,)
        assert [(tuple(one.shape), one.dtype) for one in given] == [
            (tensor.at(sizes), TYPES[tensor.kind]) for tensor in spec.outputs
        ]
