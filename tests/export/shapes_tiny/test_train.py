"""Training goes on from where a state folder stands, and never with what was made with other weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trt_export.shapes_tiny.networks import alphas_cumprod, load_model, make_vae
from trt_export.shapes_tiny.scenes import Scene, draw
from trt_export.shapes_tiny.train import state as states
from trt_export.shapes_tiny.train.decoder import decoder_loss, refine_decoder, refined_vae, restore
from trt_export.shapes_tiny.train.denoiser import (
    background_offset,
    denoiser_loss,
    draw_timesteps,
    make_pool,
    train_denoiser,
    trained_model,
)
from trt_export.shapes_tiny.train.pictures import to_pixels, to_tensor
from trt_export.shapes_tiny.train.start import start_from_model
from trt_export.shapes_tiny.train.vae import train_vae, trained_vae
from trt_export.shapes_tiny.vocabulary import FOLDER

A_MOMENT = 2e-4  # minutes: less than a step takes, and more than what comes before it
SHIPPED = FOLDER.parent


@pytest.fixture(autouse=True)
def _gradients() -> Iterator[None]:
    with torch.enable_grad():
        yield


@pytest.fixture(scope="module")
def shipped() -> tuple[nn.ModuleDict, Any]:
    return load_model(SHIPPED)


def test_a_file_that_belongs_to_other_weights_is_as_good_as_none(tmp_path: Path) -> None:
    states.save(tmp_path / "pool.pt", {"step": 3}, belongs_to="these")

    assert states.load(tmp_path / "pool.pt", "these") == {"step": 3, "belongs_to": "these"}
    assert states.load(tmp_path / "pool.pt", "those") is None
    assert states.load(tmp_path / "nothing.pt", "these") is None


def test_the_latent_space_is_the_encoder_and_its_scale() -> None:
    vae = make_vae()
    before = states.latent_space(vae)

    nn.init.zeros_(vae.decoder.conv_out.weight)
    assert states.latent_space(vae) == before
    vae.register_to_config(scaling_factor=0.5)
    scaled = states.latent_space(vae)
    assert scaled != before
    nn.init.zeros_(vae.encoder.conv_in.weight)
    assert states.latent_space(vae) != scaled


def test_latents_of_an_older_autoencoder_are_made_anew(tmp_path: Path) -> None:
    vae = make_vae().eval()
    first = make_pool(tmp_path, vae, amount=4, seed=0)
    assert torch.equal(make_pool(tmp_path, vae, amount=4, seed=1)[0]["latents"], first[0]["latents"])

    nn.init.zeros_(vae.encoder.conv_in.weight)

    assert not torch.equal(make_pool(tmp_path, vae, amount=4, seed=0)[0]["latents"], first[0]["latents"])


def test_an_autoencoder_trained_on_leaves_its_denoiser_behind(tmp_path: Path) -> None:
    start_from_model(SHIPPED, tmp_path)
    older = trained_vae(tmp_path)
    trained_model(tmp_path, older)
    (tmp_path / "vae.pt").unlink()

    other = train_vae(tmp_path, minutes=A_MOMENT, seed=0)

    with pytest.raises(FileNotFoundError, match="no denoiser of this autoencoder"):
        trained_model(tmp_path, other)


def test_a_finished_model_is_a_start_that_further_minutes_go_on_from(tmp_path: Path, shipped: tuple[Any, Any]) -> None:
    start_from_model(SHIPPED, tmp_path)
    vae = train_vae(tmp_path, minutes=1, seed=0)
    assert weights_of(vae) == weights_of(shipped[1])

    train_denoiser(tmp_path, vae, A_MOMENT, seed=0, amount=8)
    first = saved_denoiser(tmp_path, vae)
    train_denoiser(tmp_path, vae, A_MOMENT, seed=0, amount=8)
    assert saved_denoiser(tmp_path, vae)["step"] == first["step"]
    train_denoiser(tmp_path, vae, first["spent"] / 60 + A_MOMENT, seed=0, amount=8)
    assert saved_denoiser(tmp_path, vae)["step"] == first["step"] + 1

    assert weights_of(trained_model(tmp_path, vae)) != weights_of(shipped[0])


def test_refining_the_decoder_leaves_the_encoder_alone(tmp_path: Path, shipped: tuple[nn.ModuleDict, Any]) -> None:
    model, vae = shipped
    start_from_model(SHIPPED, tmp_path)

    refine_decoder(tmp_path, trained_vae(tmp_path), model, A_MOMENT, seed=0, amount=4)

    refined = refined_vae(tmp_path, trained_vae(tmp_path))
    assert states.latent_space(refined) == states.latent_space(vae)
    assert weights_of(refined.decoder) != weights_of(vae.decoder)


def test_a_decoder_of_another_autoencoder_is_not_taken(tmp_path: Path, shipped: tuple[nn.ModuleDict, Any]) -> None:
    start_from_model(SHIPPED, tmp_path)
    refine_decoder(tmp_path, trained_vae(tmp_path), shipped[0], 0, seed=0)
    other = trained_vae(tmp_path)

    nn.init.zeros_(other.encoder.conv_in.weight)

    with pytest.raises(FileNotFoundError, match="no decoder of this autoencoder"):
        refined_vae(tmp_path, other)


def test_only_coarse_levels_are_given_another_background_and_only_every_second_time() -> None:
    torch.manual_seed(0)
    timesteps = torch.arange(1000)

    offset = background_offset(timesteps, alphas_cumprod().view(-1, 1, 1, 1)).abs().amax((1, 2, 3))

    assert (offset[:500] == 0).all()
    assert 200 < (offset > 0).sum() < 300


def test_three_of_four_timesteps_are_coarse() -> None:
    torch.manual_seed(0)
    timesteps = draw_timesteps(4000)

    assert timesteps.min() >= 0
    assert timesteps.max() < 1000
    assert (timesteps >= 500).float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_a_wrong_background_costs_more_than_the_same_error_scattered() -> None:
    noise, alpha = torch.zeros(1, 4, 16, 16), torch.full((1, 1, 1, 1), 0.1)
    scattered = torch.tensor([0.1, -0.1]).repeat(8).expand(1, 4, 16, 16)

    even, uneven = (denoiser_loss(error, noise, alpha).item() for error in (noise + 0.1, scattered))

    assert even == pytest.approx(31 * uneven, rel=1e-4)  # 1 + 2 + 4 + 8 + 16


def test_a_small_shape_that_is_missing_costs_like_a_large_one() -> None:
    def missing(size: str) -> float:
        picture = to_tensor([draw(Scene(shape="ring", colour="red", size=size), 128, 128)])
        return float(decoder_loss(picture[:, :, :1, :1].expand_as(picture), picture))

    assert missing("small") > 0.6 * missing("large")


def test_the_denoiser_restores_a_picture_nearer_than_its_noise(shipped: tuple[nn.ModuleDict, Any]) -> None:
    model, vae = shipped
    scene = Scene(shape="circle", colour="red")
    torch.manual_seed(0)
    with torch.inference_mode():
        clean = vae.encode(to_tensor([draw(scene, 128, 128)])).latent_dist.mode() * vae.config.scaling_factor
        restored = restore(model, clean, [scene], level=300, guidance=2.0)

    alpha = alphas_cumprod()[300].item()
    assert (restored - clean).std().item() < 0.5 * math.sqrt((1 - alpha) / alpha)


def test_pixels_survive_the_way_to_a_tensor_and_back() -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5

    assert (to_pixels(to_tensor([picture]))[0] == picture).all()


def saved_denoiser(state: Path, vae: Any) -> dict[str, Any]:
    saved = states.load(state / "denoiser.pt", states.latent_space(vae))
    assert saved is not None
    return saved


def weights_of(network: nn.Module) -> str:
    return states.fingerprint(network)
