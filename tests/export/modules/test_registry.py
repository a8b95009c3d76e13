"""The entries: found by name, consistent, and as costly as they say."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from trt_export.modules import measure
from trt_export.modules.architecture import Architecture, Axis, ComponentSpec, Quantity, Role
from trt_export.modules.registry import ARCHITECTURES, UnknownArchitecture, architecture
from trt_export.modules.stable_cascade import STABLE_CASCADE

NETWORKS = {
    (component.make, repr(component.config)): pytest.param(component, id=f"{entry.name}-{component.name}")
    for entry in reversed(ARCHITECTURES)  # the first to have a network names it
    for component in entry.components
}
"""Each once: architectures share text encoders and autoencoders."""


def test_an_architecture_is_found_by_its_name_and_an_unknown_one_names_those_there_are() -> None:
    assert architecture("flux_dev").title == "Flux.1 dev"

    with pytest.raises(UnknownArchitecture, match=r"no architecture 'flux_pro'; known are .*flux_dev.*krea_2_turbo"):
        architecture("flux_pro")


def test_names_of_architectures_are_used_once() -> None:
    names = [entry.name for entry in ARCHITECTURES]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("component", NETWORKS.values())
def test_flops_and_parameters_are_what_is_counted(component: ComponentSpec) -> None:
    module = measure.meta_module(component)
    counted = measure.flops(component, module, width=768, height=512, tokens=192)  # no latent is rounded up

    assert sum(weight.numel() for weight in module.parameters()) == component.parameters
    assert component.cost.flops(width=768, height=512, tokens=192) == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("family", ["stable_diffusion_1", "sdxl"])
def test_a_unet_computes_little_more_where_each_level_rounds_its_sides_up(family: str) -> None:
    component = architecture(family).component("denoiser")
    counted = measure.flops(component, measure.meta_module(component), width=520, height=520, tokens=77)

    assert 1.0 < counted / component.cost.flops(width=520, height=520, tokens=77) < 1.08


def test_krea_dev_shares_every_graph_of_dev() -> None:
    assert architecture("flux_krea_dev").components == architecture("flux_dev").components


@pytest.mark.parametrize("component", NETWORKS.values())
def test_no_network_that_offers_bfloat16_has_a_transposed_convolution(component: ComponentSpec) -> None:
    """TensorRT-RTX 1.7 parses one in bfloat16 and then fails to compile it."""
    with torch.device("meta"):
        kinds = {type(module) for module in component.make(component.small_config).modules()}

    assert "bfloat16" not in component.precisions or nn.ConvTranspose2d not in kinds


@pytest.mark.parametrize("entry", ARCHITECTURES, ids=lambda entry: entry.name)
def test_an_architecture_has_a_text_encoder_a_denoiser_and_both_ways_between_pixels_and_latents(
    entry: Architecture,
) -> None:
    roles = {component.role for component in entry.components}
    names = {component.name for component in entry.components}

    assert roles == set(Role)
    assert names >= {"denoiser", "vae_decoder", "vae_encoder"}
    assert entry.component("denoiser") is entry.denoisers[0]
    assert entry.component("denoiser").inputs[0].shape[1] == entry.latent_channels


@pytest.mark.parametrize("entry", ARCHITECTURES, ids=lambda entry: entry.name)
def test_the_time_of_an_architecture_is_a_ratio_or_a_step_of_training(entry: Architecture) -> None:
    assert entry.timesteps == (1 if entry.prediction == "flow" or entry is STABLE_CASCADE else 1000)


def test_an_axis_is_rounded_up_to_what_its_network_takes() -> None:
    halved = Axis(name="height", quantity=Quantity.HEIGHT, unit=8, multiple=4)
    third = Axis(name="height", quantity=Quantity.HEIGHT, unit=Fraction(128, 3))

    assert [halved.elements(size) for size in (32, 64, 65, 96)] == [4, 8, 12, 12]
    assert [third.elements(size) for size in (128, 129, 170, 171)] == [3, 4, 4, 5]
    assert (halved.step, third.step) == (32, 1)
