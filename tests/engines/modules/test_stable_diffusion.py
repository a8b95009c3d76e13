"""Stable Diffusion 1, 2 and XL against the libraries' own networks, called as their pipelines call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from trt_engines.architectures.registry import architecture
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.registry import module_of

TIMES = torch.tensor([1.0, 999.0])
SIDES = ((8, 6), (9, 17), (1, 3))
"""Heights and widths of latents that a level halves, and that it rounds."""


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return float((ours - theirs).abs().max() / theirs.abs().max()) <= 1e-5


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[1]))


def made(spec: ModuleSpec) -> Any:
    torch.manual_seed(5)
    return spec.make(spec.small_config)


def pair(family: str, network: str, reference: Any) -> tuple[Any, Any]:
    """Our network and the library's with the same weights."""
    spec = module_of(family, network)
    ours, theirs = made(spec), reference(spec.small_config).eval()
    assert not theirs.load_state_dict(ours.model.state_dict(), strict=False).unexpected_keys
    return ours, theirs


def a_unet(config: Any) -> Any:
    return UNet2DConditionModel(**config)


def a_clip(config: Any) -> Any:
    return CLIPTextModel(CLIPTextConfig(**config))


def some_tokens() -> torch.Tensor:
    """Two texts of 77 tokens, one of which ends early and one at the last place."""
    tokens = torch.randint(0, 1000, (2, 77), generator=torch.Generator().manual_seed(1))
    tokens[0, 9:] = tokens[1, 76:] = 1023
    return tokens


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("family", ["stable_diffusion_1", "stable_diffusion_2", "stable_diffusion_2_v"])
def test_a_unet_predicts_what_the_library_predicts_at_any_size(family: str, sides: tuple[int, int]) -> None:
    ours, theirs = pair(family, "denoiser", a_unet)
    sample, context = values(2, 4, *sides), values(2, 10, 32)

    assert close(ours(sample, TIMES, context), theirs(sample, TIMES, context).sample)


@pytest.mark.parametrize("family", ["stable_diffusion_1_inpainting", "stable_diffusion_2_inpainting"])
def test_inpainting_joins_latent_mask_and_masked_latent_in_the_pipelines_order(family: str) -> None:
    ours, theirs = pair(family, "denoiser", a_unet)
    sample, mask, masked, context = values(2, 4, 8, 6), values(2, 1, 8, 6), values(2, 4, 8, 6) / 2, values(2, 10, 32)

    predicted = ours(sample, TIMES, context, mask, masked)

    assert close(predicted, theirs(torch.cat([sample, mask, masked], dim=1), TIMES, context).sample)


@pytest.mark.parametrize("sides", SIDES)
def test_sdxl_predicts_what_the_library_predicts_from_pooled_text_and_sizes(sides: tuple[int, int]) -> None:
    ours, theirs = pair("sdxl", "denoiser", a_unet)
    sample, context, pooled = values(2, 4, *sides), values(2, 10, 32), values(2, 32)
    sizes = torch.tensor([[1024.0, 768, 0, 0, 1024, 768], [512.0, 512, 8, 0, 1024, 1024]])

    predicted = ours(sample, TIMES, context, pooled, sizes)

    more = {"text_embeds": pooled, "time_ids": sizes}
    assert close(predicted, theirs(sample, TIMES, context, added_cond_kwargs=more).sample)


@pytest.mark.parametrize("family", ["stable_diffusion_1", "stable_diffusion_2"])
def test_each_layer_of_the_text_encoder_is_what_a_clip_skip_asks_for(family: str) -> None:
    ours, theirs = pair(family, "text_encoder", a_clip)
    tokens = some_tokens()

    layers = ours(tokens)

    states = theirs(tokens, output_hidden_states=True).hidden_states
    assert len(layers) == 3
    for skip in (1, 2, 3):
        assert close(layers[skip - 1], theirs.final_layer_norm(states[-skip]))


def test_stable_diffusion_2_has_24_layers_and_of_a_file_with_23_the_last_stands_in_for_the_one_it_lacks() -> None:
    spec = module_of("stable_diffusion_2", "text_encoder")
    assert spec.outputs[0].shape[0] == 24

    assert spec.lacking is not None
    shorter = spec.configured({**spec.small_config, **spec.lacking[1]})
    assert shorter.outputs[0].shape[0] == 24
    layers = shorter.make(shorter.config)(some_tokens())
    assert layers.shape == (24, 2, 77, 32)
    assert torch.equal(layers[0], layers[1])
    assert not torch.equal(layers[1], layers[2])


def test_sdxls_text_encoders_give_each_layer_as_it_is_and_the_second_one_a_pooled_text() -> None:
    tokens = some_tokens()
    ours, theirs = pair("sdxl", "text_encoder", a_clip)
    _each_layer(ours(tokens), theirs(tokens, output_hidden_states=True).hidden_states)

    ours, theirs = pair("sdxl", "text_encoder_2", lambda config: CLIPTextModelWithProjection(CLIPTextConfig(**config)))
    context, pooled = ours(tokens)
    expected = theirs(tokens, output_hidden_states=True)
    _each_layer(context, expected.hidden_states)
    assert close(pooled, expected.text_embeds)


def _each_layer(layers: torch.Tensor, states: Sequence[torch.Tensor]) -> None:
    """Entry k - 1 is the state of the k-th layer from the end."""
    assert len(layers) == 3
    for skip in (1, 2, 3):
        assert close(layers[skip - 1], states[-skip])


@pytest.mark.parametrize(("family", "factor"), [("stable_diffusion_1", 0.18215), ("sdxl", 0.13025)])
def test_the_autoencoder_has_the_denoisers_units_on_both_sides(family: str, factor: float) -> None:
    decoder, theirs = pair(family, "vae_decoder", lambda config: AutoencoderKL(**config))
    latent = values(2, 4, 4, 6)
    assert close(decoder(latent), theirs.decode(latent / factor).sample)

    encoder, theirs = pair(family, "vae_encoder", lambda config: AutoencoderKL(**config))
    pixels = values(2, 3, 32, 48).clamp(-1, 1)
    assert close(encoder(pixels), theirs.encode(pixels).latent_dist.mode() * factor)


@pytest.mark.parametrize(
    ("family", "prediction", "side"),
    [
        ("stable_diffusion_1", "epsilon", 512),
        ("stable_diffusion_1_inpainting", "epsilon", 512),
        ("stable_diffusion_2", "epsilon", 512),
        ("stable_diffusion_2_v", "v_prediction", 768),
        ("stable_diffusion_2_inpainting", "epsilon", 512),
        ("sdxl", "epsilon", 1024),
    ],
)
def test_every_variant_says_what_it_predicts_and_its_own_size(family: str, prediction: str, side: int) -> None:
    entry = architecture(family)

    assert (entry.prediction, entry.native_side) == (prediction, side)


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield
