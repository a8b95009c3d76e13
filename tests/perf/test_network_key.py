"""Which networks a benchmark takes for one."""

from __future__ import annotations

from trt_engines.modules.registry import MODULES
from trt_perf.network_key import network_key


def test_networks_are_one_when_made_alike_and_two_when_anything_that_decides_differs() -> None:
    spec, other, *_ = MODULES["stable_diffusion_1"]
    key = network_key(spec, spec.config, "float16")

    assert network_key(spec, dict(reversed(spec.config.items())), "float16") == key
    assert network_key(spec, spec.small_config, "float16") != key
    assert network_key(spec, spec.config, "bfloat16") != key
    assert network_key(other, spec.config, "float16") != key


def test_no_two_networks_of_one_architecture_are_one() -> None:
    for specs in MODULES.values():
        keys = [network_key(one, one.config, one.name) for one in specs]

        assert len(set(keys)) == len(keys)
