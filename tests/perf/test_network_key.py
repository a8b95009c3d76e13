"""Which networks a benchmark takes for one."""

from __future__ import annotations

from trt_export.modules.registry import ARCHITECTURES
from trt_perf.network_key import network_key


def test_networks_are_one_when_made_alike_and_two_when_anything_that_decides_differs() -> None:
    component = ARCHITECTURES[0].components[0]
    other = next(one for one in ARCHITECTURES[0].components if one.make is not component.make)
    key = network_key(component, component.config, "float16")

    assert network_key(component, dict(reversed(component.config.items())), "float16") == key
    assert network_key(component, component.small_config, "float16") != key
    assert network_key(component, component.config, "bfloat16") != key
    assert network_key(other, component.config, "float16") != key


def test_no_two_networks_of_one_architecture_are_one() -> None:
    for architecture in ARCHITECTURES:
        keys = [network_key(one, one.config, one.name) for one in architecture.components]

        assert len(set(keys)) == len(keys)
