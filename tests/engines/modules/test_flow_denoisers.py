"""Our forwards of the flow transformers against the libraries' own, called as their pipelines call them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    ChromaTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    Krea2Transformer2DModel,
    ZImageTransformer2DModel,
)
from torch import nn

from trt_engines.modules.krea2 import TEMPLATE_TOKENS
from trt_engines.modules.patches import pack, unpack
from trt_engines.modules.registry import module_of

HEIGHT, WIDTH = 8, 12  # latent positions
TIMES = torch.tensor([0.25, 0.875])  # exact in float32, so that 1 - t is too


def lively(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    for weight in module.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_(noise * min(0.05, weight[0].numel() ** -0.5) + (0 if weight.dim() > 1 else weight))
    return module


def pair(name: str, reference: Any, **deeper: int) -> tuple[nn.Module, Any]:
    """Our denoiser and the library's with the same weights."""
    spec = module_of(name, "denoiser")
    config = {**spec.small_config, **deeper}
    ours = lively(spec.make(config))
    theirs = reference(**config).eval()
    theirs.load_state_dict(ours.model.state_dict())
    return ours, theirs


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[-1]))


def image_ids() -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(HEIGHT // 2), torch.arange(WIDTH // 2), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("name", ["flux_schnell", "flux_dev", "flux_krea_dev"])
def test_flux_predicts_what_the_library_predicts(name: str) -> None:
    ours, theirs = pair(name, FluxTransformer2DModel, num_layers=2, num_single_layers=2)
    sample, context, pooled = values(2, 16, HEIGHT, WIDTH), values(2, 10, 4096), values(2, 768)
    guidance = None if name == "flux_schnell" else torch.tensor([3.5, 2.0])

    predicted = ours(sample, TIMES, context, pooled, guidance)

    tokens = theirs(pack(sample), context, pooled, TIMES, image_ids(), torch.zeros(10, 3), guidance, return_dict=False)[
        0
    ]
    assert difference(predicted, unpack(tokens, HEIGHT // 2, WIDTH // 2)) <= 1e-5


def test_chroma_predicts_for_a_masked_row_what_the_library_predicts_for_the_row_cut_to_its_tokens() -> None:
    ours, theirs = pair("chroma", ChromaTransformer2DModel, num_layers=2, num_single_layers=2)
    sample, context = values(2, 16, HEIGHT, WIDTH), values(2, 10, 4096)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[1, 6:] = False

    predicted = ours(sample, TIMES, context, mask)

    for row, tokens in enumerate((10, 6)):
        one = slice(row, row + 1)
        output = theirs(
            pack(sample[one]),
            context[one, :tokens],
            TIMES[one],
            image_ids(),
            torch.zeros(tokens, 3),
            return_dict=False,
        )[0]
        assert difference(predicted[one], unpack(output, HEIGHT // 2, WIDTH // 2)) <= 1e-5


@pytest.mark.parametrize("lengths", [(64, 64), (50, 20), (33, 32)])
def test_z_image_predicts_for_texts_of_different_lengths_what_the_library_predicts(lengths: tuple[int, int]) -> None:
    ours, theirs = pair("z_image_turbo", ZImageTransformer2DModel, n_layers=2, n_refiner_layers=2)
    sample, context = values(2, 16, HEIGHT, WIDTH), values(2, 64, 2560)
    mask = torch.arange(64) < torch.tensor(lengths)[:, None]

    predicted = ours(sample, TIMES, context, mask)

    texts = [row[:length] for row, length in zip(context, lengths, strict=True)]
    output = theirs([row.unsqueeze(1) for row in sample], 1 - TIMES, texts, return_dict=False)[0]
    assert difference(predicted, -torch.stack(output).squeeze(2)) <= 1e-5


def test_klein_predicts_what_the_library_predicts() -> None:
    ours, theirs = pair("flux2_klein_4b", Flux2Transformer2DModel, num_layers=2, num_single_layers=2)
    sample, context = values(2, 128, 4, 6), values(2, 10, 7680)
    one = torch.arange(1)

    predicted = ours(sample, TIMES, context)

    output = theirs(
        sample.flatten(2).transpose(1, 2),
        context,
        TIMES,
        torch.cartesian_prod(one, torch.arange(4), torch.arange(6), one),
        torch.cartesian_prod(one, one, one, torch.arange(10)),
        return_dict=False,
    )[0]
    assert difference(predicted, output.transpose(1, 2).unflatten(2, (4, 6))) <= 1e-5


def test_krea_2_predicts_what_the_library_predicts_from_the_context_past_the_template() -> None:
    ours, theirs = pair("krea_2_turbo", Krea2Transformer2DModel, num_layers=2)
    tokens = TEMPLATE_TOKENS + 10
    sample, context = values(2, 16, HEIGHT, WIDTH), values(2, tokens, 30720)
    mask = torch.ones(2, tokens, dtype=torch.bool)
    mask[1, tokens - 6 : tokens - 2] = False

    predicted = ours(sample, TIMES, context, mask)

    output = theirs(
        pack(sample),
        context[:, TEMPLATE_TOKENS:].unflatten(2, (240, 128)),
        TIMES,
        torch.cat([torch.zeros(10, 3), image_ids()]),
        mask[:, TEMPLATE_TOKENS:],
        return_dict=False,
    )[0]
    assert difference(predicted, unpack(output, HEIGHT // 2, WIDTH // 2)) <= 1e-5


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield
