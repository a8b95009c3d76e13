"""The modules: one for each network, and as costly as its entry says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.registry import ARCHITECTURES, UnknownArchitecture
from trt_engines.modules import measure
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.registry import MODULES, module_of, networks

EACH = [
    pytest.param(spec, id=f"{entry.name}-{spec.name}")
    for entry, spec in networks(lambda one: (one.make, repr(one.config))).values()
]
"""Each once: architectures share text encoders and autoencoders."""


@pytest.mark.parametrize("entry", ARCHITECTURES, ids=lambda entry: entry.name)
def test_every_network_of_an_architecture_has_a_module_whose_configuration_gives_its_ports(entry: Architecture) -> None:
    specs = MODULES[entry.name]

    assert tuple(spec.network for spec in specs) == entry.networks
    assert tuple(spec.configured(spec.config) for spec in specs) == specs


def test_a_module_is_found_by_the_names_of_its_architecture_and_network() -> None:
    assert module_of("flux_dev", "denoiser").config["guidance_embeds"]

    with pytest.raises(UnknownArchitecture, match="no architecture 'flux_pro'"):
        module_of("flux_pro", "denoiser")
    with pytest.raises(KeyError, match="flux_dev has no network 'unet'"):
        module_of("flux_dev", "unet")


@pytest.mark.parametrize("spec", EACH)
def test_flops_and_parameters_are_what_is_counted(spec: ModuleSpec) -> None:
    made = measure.meta_module(spec)
    counted = measure.flops(spec, made, width=768, height=512, tokens=192)  # no latent is rounded up

    assert sum(weight.numel() for weight in made.parameters()) == spec.network.parameters
    assert spec.network.cost.flops(width=768, height=512, tokens=192) == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("family", ["stable_diffusion_1", "sdxl"])
def test_a_unet_computes_little_more_where_each_level_rounds_its_sides_up(family: str) -> None:
    spec = module_of(family, "denoiser")
    counted = measure.flops(spec, measure.meta_module(spec), width=520, height=520, tokens=77)

    assert 1.0 < counted / spec.network.cost.flops(width=520, height=520, tokens=77) < 1.08


def test_krea_dev_shares_every_graph_of_dev() -> None:
    assert MODULES["flux_krea_dev"] == MODULES["flux_dev"]


@pytest.mark.parametrize("spec", EACH)
def test_no_network_that_offers_bfloat16_has_a_transposed_convolution(spec: ModuleSpec) -> None:
    """TensorRT-RTX 1.7 parses one in bfloat16 and then fails to compile it."""
    with torch.device("meta"):
        kinds = {type(part) for part in spec.make(spec.small_config).modules()}

    assert "bfloat16" not in spec.network.precisions or nn.ConvTranspose2d not in kinds
