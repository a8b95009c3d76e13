"""The entries: found by name, consistent, and as costly as they say."""

from __future__ import annotations

import pytest

from trt_export.architectures import measure
from trt_export.architectures.architecture import ComponentSpec
from trt_export.architectures.registry import ARCHITECTURES, UnknownArchitecture, architecture

ENTRIES = [
    pytest.param(component, id=f"{entry.name}-{component.name}")
    for entry in ARCHITECTURES
    for component in entry.components
    if entry.prediction == "flow"
]


def test_an_architecture_is_found_by_its_name_and_an_unknown_one_names_those_there_are() -> None:
    assert architecture("flux_dev").title == "Flux.1 dev"

    with pytest.raises(UnknownArchitecture, match=r"no architecture 'flux_pro'; known are .*flux_dev.*krea_2_turbo"):
        architecture("flux_pro")


def test_names_of_architectures_are_used_once() -> None:
    names = [entry.name for entry in ARCHITECTURES]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("component", ENTRIES)
def test_flops_and_parameters_are_what_is_counted(component: ComponentSpec) -> None:
    module = measure.meta_module(component)
    counted = measure.flops(component, module, width=768, height=512, tokens=192)

    assert sum(weight.numel() for weight in module.parameters()) == component.parameters
    assert component.cost.flops(width=768, height=512, tokens=192) == pytest.approx(counted, rel=0.05)


def test_krea_dev_shares_every_graph_of_dev() -> None:
    assert architecture("flux_krea_dev").components == architecture("flux_dev").components
