"""Stable Cascade's networks against the libraries' own, called as their pipelines call them, and its sizes."""

from __future__ import annotations

from math import ceil
from typing import Any

import pytest
import torch
from diffusers import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from trt_engines.architectures.axis import Quantity
from trt_engines.architectures.stable_cascade import STABLE_CASCADE
from trt_engines.modules.efficientnet import EFFICIENTNET_V2_S, make_encoder
from trt_engines.modules.registry import module_of

TIMES = torch.tensor([0.25, 0.875])


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return float((ours - theirs).abs().max() / theirs.abs().max()) <= 1e-5


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[-1]))


def lively(module: nn.Module) -> nn.Module:
    """With no weight left at its trivial start."""
    generator = torch.Generator().manual_seed(7)
    for name, values_ in module.state_dict().items():
        if values_.is_floating_point():
            noise = torch.randn(values_.shape, generator=generator) * 0.1
            values_.add_(noise.abs() if name.endswith("running_var") else noise)
    return module


def pair(network: str, reference: Any) -> tuple[nn.Module, Any]:
    """Our network and the library's with the same weights."""
    config = module_of("stable_cascade", network).small_config
    ours = lively(module_of("stable_cascade", network).make(config))
    theirs = reference(**config).eval()
    assert not theirs.load_state_dict(ours.model.state_dict(), strict=False).unexpected_keys
    return ours, theirs


def test_stage_c_predicts_what_the_library_predicts_without_a_picture() -> None:
    ours, theirs = pair("denoiser", StableCascadeUNet)
    sample, context, pooled = values(2, 16, 3, 5), values(2, 10, 32), values(2, 32)

    predicted = ours(sample, TIMES, context, pooled)

    expected = theirs(sample, TIMES, pooled[:, None], context, torch.zeros(2, 1, 16), return_dict=False)[0]
    assert close(predicted, expected)


@pytest.mark.parametrize("sides", [(16, 24), (18, 34)])
def test_stage_b_predicts_what_the_library_predicts_at_any_size_from_any_size_of_stage_c(
    sides: tuple[int, int],
) -> None:
    ours, theirs = pair("denoiser_stage_b", StableCascadeUNet)
    sample, effnet, pooled = values(2, 4, *sides), values(2, 16, 2, 3), values(2, 32)

    predicted = ours(sample, TIMES, effnet, pooled)

    expected = theirs(sample, TIMES, pooled[:, None], effnet=effnet, return_dict=False)[0]
    assert close(predicted, expected)


def test_stage_a_has_the_denoisers_units_on_one_side_and_pixels_from_minus_one_on_the_other() -> None:
    decoder, theirs = pair("vae_decoder", PaellaVQModel)
    latent = values(2, 4, 6, 4)
    assert close(decoder(latent), theirs.decode(latent * 0.43).sample * 2 - 1)

    encoder, theirs = pair("vae_encoder", PaellaVQModel)
    pixels = values(2, 3, 24, 16).clamp(-1, 1)
    assert close(encoder(pixels), theirs.encode((pixels + 1) / 2).latents / 0.43)


@pytest.mark.parametrize("length", [9, 76, 77])
def test_the_text_encoder_hides_padding_as_the_librarys_attention_mask_does(length: int) -> None:
    spec = module_of("stable_cascade", "text_encoder")
    ours = lively(spec.make(spec.small_config))
    theirs = CLIPTextModelWithProjection(CLIPTextConfig(**spec.small_config)).eval()
    theirs.load_state_dict(ours.model.state_dict())
    tokens = torch.randint(0, 1000, (2, 77), generator=torch.Generator().manual_seed(1))
    tokens[0, length - 1 :] = tokens[1, 76:] = 1023
    mask = torch.ones(2, 77, dtype=torch.int64)
    mask[0, length:] = 0

    context, pooled = ours(tokens)

    expected = theirs(tokens, attention_mask=mask, output_hidden_states=True)
    assert close(context, expected.hidden_states[-1])
    assert close(pooled, expected.text_embeds)


def test_the_norm_over_a_picture_stays_finite_in_half_precision() -> None:
    ours, _ = pair("denoiser_stage_b", StableCascadeUNet)
    norm = ours.half().model.down_blocks[0][0].channelwise[2]

    assert bool(torch.isfinite(norm(torch.full((1, 64, 64, 64), 2000.0, dtype=torch.float16))).all())


def test_the_image_encoder_computes_what_torchvisions_efficientnet_computes() -> None:
    """EFFNET_LATENT is of torchvision 0.28's `efficientnet_v2_s`, which the project does without, and a mapper."""
    encoder = make_encoder(EFFICIENTNET_V2_S)
    weights = encoder.model.state_dict()
    for number, (name, tensor) in enumerate(weights.items()):
        if tensor.is_floating_point():
            tensor.copy_(_wave(number, tensor, centre=1.0 if name.endswith(("running_var", "1.weight")) else 0.0))

    latent = encoder(torch.linspace(-1, 1, 3 * 64 * 32).reshape(1, 3, 64, 32).sin())

    assert latent.shape == (1, 16, 2, 1)
    # Values reach a hundred; processors round their long float32 sums otherwise, by some millionths of that.
    assert torch.allclose(latent[0, ::2].flatten(), torch.tensor(EFFNET_LATENT), rtol=1e-4, atol=2e-3)


def _wave(number: int, tensor: torch.Tensor, *, centre: float) -> torch.Tensor:
    """Values that every generator would agree on."""
    spread = 2 * tensor[0].numel() ** -0.5 if tensor.dim() > 1 else 0.1
    return centre + spread * (torch.arange(tensor.numel(), dtype=torch.float64) * 1.7 + number).sin().reshape(
        tensor.shape
    ).to(tensor.dtype)


EFFNET_LATENT: list[float] = [
    49.494492,
    60.381687,
    -111.27399,
    -137.2068,
    90.358284,
    112.09451,
    -0.35380453,
    -1.2646331,
    -92.051674,
    -113.08884,
    107.03316,
    132.30667,
    -53.558498,
    -66.914719,
    -45.571667,
    -55.52261,
]


@pytest.mark.parametrize("side", range(256, 1537, 32))
def test_stage_cs_latent_has_the_librarys_size(side: int) -> None:
    sizes = {Quantity.ROWS: 1, Quantity.WIDTH: side, Quantity.HEIGHT: 1024, Quantity.TOKENS: 77}

    sample = STABLE_CASCADE.network("denoiser").inputs[0].at(sizes)
    pixels = STABLE_CASCADE.network("effnet_encoder").inputs[0].at(sizes)

    assert sample == (1, 16, 24, ceil(side / 42.67))
    assert pixels == (1, 3, 768, 32 * ceil(side / 42.67))


def test_stage_b_runs_a_row_for_each_picture_and_stage_c_two() -> None:
    from trt_engines.profiles.histogram import Demand, Histogram
    from trt_export.plan import network_histogram

    histogram = Histogram.of([Demand(width=1024, height=1024, rows=8, tokens=77)])

    rows = {
        one.name: network_histogram(one, STABLE_CASCADE, histogram).demands[0].rows for one in STABLE_CASCADE.networks
    }

    assert (rows["denoiser"], rows["denoiser_stage_b"], rows["vae_decoder"], rows["effnet_encoder"]) == (8, 4, 1, 1)


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield
