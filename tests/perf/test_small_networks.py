"""The networks that the suite `build` measures, and the cards it builds them for."""

from __future__ import annotations

import pytest

from trt_engines.modules.registry import module_of
from trt_perf.small_networks import outcomes, targets


def test_a_network_is_compared_with_pytorch_and_built() -> None:
    (found,) = outcomes("stable_diffusion_1", ("text_encoder",), lambda step, share: None)

    assert 0 < found.parity <= 1e-4
    assert found.failures == ()


@pytest.mark.parametrize(
    ("name", "network", "expected"),
    [
        ("stable_diffusion_1", "denoiser", {"float16": (75, 86, 89)}),
        ("flux_dev", "denoiser", {"float16": (75,), "bfloat16": (86, 89)}),
        ("sdxl", "vae_decoder", {"bfloat16": (86, 89)}),
    ],
)
def test_turing_is_asked_for_what_has_a_half_precision_form(
    name: str, network: str, expected: dict[str, tuple[int, ...]]
) -> None:
    assert targets(module_of(name, network).network) == expected
