"""The cost model's networks are those that are exported: FLOPs, weights, kernels and bytes are counted."""

from __future__ import annotations

import pytest

from trt_engines.costs import work
from trt_engines.modules.registry import module_of
from trt_export.measuring.measure import meta_module
from trt_export.measuring.traffic import traffic

NETWORKS = [
    ("stable_diffusion_1", "denoiser", work.STABLE_DIFFUSION_1),
    ("sdxl", "denoiser", work.SDXL),
    ("sdxl", "vae_decoder", work.VAE_DECODER),
    ("sdxl", "text_encoder", work.CLIP_L),
    ("sdxl", "text_encoder_2", work.OPEN_CLIP_BIGG),
]


@pytest.mark.parametrize(("family", "name", "network"), NETWORKS)
def test_kernels_and_bytes_are_as_counted(family: str, name: str, network: work.NetworkWork) -> None:
    spec = module_of(family, name)
    counted = traffic(spec, meta_module(spec), width=640, height=512, tokens=77)
    fused, unfused = (network.work(rows=1, width=640, height=512, fused=way) for way in (True, False))

    assert (fused.kernels, unfused.kernels) == (counted.kernels, counted.operations)
    assert fused.activation_bytes == pytest.approx(counted.bytes, rel=1e-4)
    assert unfused.activation_bytes == pytest.approx(counted.unfused_bytes, rel=1e-4)
