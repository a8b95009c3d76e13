"""Text encoder and denoiser, trained together on latents of drawn scenes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trt_export.shapes_tiny.networks import TRAIN_STEPS, alphas_cumprod, make_model
from trt_export.shapes_tiny.scenes import caption, draw, practice_scene, random_scene
from trt_export.shapes_tiny.train.optimise import (
    Average,
    Optimizers,
    descend,
    make_optimizers,
    resume,
    standing,
    start_as_identity,
)
from trt_export.shapes_tiny.train.pictures import to_tensor
from trt_export.shapes_tiny.train.state import computed, latent_space, load, report, save
from trt_export.shapes_tiny.vocabulary import make_tokenizer

DROPOUT = 0.1
"""Share of captions that are dropped, so that guidance has an unconditional estimate to work with."""

SIZES = (
    ((128, 128), 0.68),
    ((64, 64), 0.04),
    ((192, 192), 0.08),
    ((256, 256), 0.08),
    ((192, 128), 0.06),
    ((128, 192), 0.06),
)
COARSE_FROM = 500
"""Timestep from which on a picture's background and places are decided rather than its edges."""

OFFSET = 0.8
"""Standard deviation of the difference of two scenes' mean latents, in the denoiser's units."""

SCALES = (1, 2, 4, 8, 16)
"""Sides, in latents, of the squares whose mean errors count."""


def trained_model(state: Path, vae: Any) -> nn.ModuleDict:
    """The averaged weights of the state folder. Raises: FileNotFoundError: none were trained in this latent space."""
    saved = load(state / "denoiser.pt", latent_space(vae))
    if saved is None:
        raise FileNotFoundError(f"{state / 'denoiser.pt'} holds no denoiser of this autoencoder; train it first")
    model = make_model()
    model.load_state_dict(saved["average"])
    return model.eval()


def make_pool(state: Path, vae: Any, amount: int, seed: int) -> list[dict[str, Any]]:
    """Latents and captions of many scenes, one entry per picture size."""
    file, space = state / "pool.pt", latent_space(vae)
    if (saved := load(file, space)) is not None:
        return list(saved["parts"])
    random = np.random.default_rng(seed + 1)
    pool = []
    for (width, height), share in SIZES:
        latents: list[torch.Tensor] = []
        captions: list[str] = []
        wanted = math.ceil(amount * share)
        chunk = min(wanted, max(4, 32 * 128 * 128 // (width * height)))
        while len(captions) < wanted:
            scenes = [(practice_scene, random_scene)[number % 2](random) for number in range(chunk)]
            pictures = to_tensor([draw(scene, width, height, random) for scene in scenes])
            with torch.inference_mode():
                latents.append((vae.encode(pictures).latent_dist.mode() * vae.config.scaling_factor).half())
            captions += [caption(scene, int(random.integers(0, 15))) for scene in scenes]
        pool.append({"latents": torch.cat(latents), "captions": captions, "share": share})
        report(f"pool {width}x{height}: {len(captions)} scenes")
    save(file, {"parts": pool}, space)
    return pool


def draw_timesteps(rows: int) -> torch.Tensor:
    """Noise levels to learn at, int64 [rows]: of two, one is any, the other one of the upper half.

    There the caption alone decides the background and the places, in few of the calls that paint a picture.
    """
    lowest = torch.where(torch.rand(rows) < 0.5, COARSE_FROM, 0)
    return (lowest + torch.rand(rows) * (TRAIN_STEPS - lowest)).long()


def background_offset(timesteps: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """What is added to the noise of every second row with a high level: another background, float32 [rows, 4, 1, 1].

    A scene's mean shows through the highest noise that there is. A denoiser that learns to read it there finds, when it
    paints, the chance mean of pure noise; so every second time the mean is wrong, and only the caption is right.

    Args:
        timesteps: int64 [rows].
        alpha: of `alphas_cumprod`, [rows, 1, 1, 1].
    Source: Guttenberg 2023, "Diffusion with offset noise", with an offset of the latents' scale at every level.
    """
    rows = len(timesteps)
    wrong = (timesteps >= COARSE_FROM) & (torch.rand(rows) < 0.5)
    means = OFFSET * torch.randn(rows, 4, 1, 1) * (alpha / (1 - alpha)).sqrt()
    return means * wrong.view(-1, 1, 1, 1)


def denoiser_loss(predicted: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """How far a prediction is off, over squares of several sizes.

    A background is the mean of 256 latents: one of a thousand directions, which a plain mean leaves for last. Mean
    errors of larger squares therefore count again, by their side.

    Args:
        predicted, noise: [rows, 4, h, w].
        alpha: of `alphas_cumprod`, [rows, 1, 1, 1].
    Source: Hoogeboom et al. 2023, arXiv:2301.11093 (the scales); Hang et al. 2023, arXiv:2303.09556 (the weight of
    noise levels, with a bound of 5).
    """
    signal_to_noise = (alpha / (1 - alpha)).flatten()
    weight = signal_to_noise.clamp(max=5.0) / signal_to_noise
    error = predicted - noise
    total = torch.zeros(len(error))
    for scale in SCALES:
        if scale <= min(error.shape[2:]):
            total = total + scale * functional.avg_pool2d(error, scale).square().mean((1, 2, 3))
    return (weight * total).mean()


def save_denoiser(
    state: Path, vae: Any, model: nn.ModuleDict, average: Average, optimizers: Optimizers, spent: float, step: int
) -> None:
    """Write where the training stands; `spent` is in seconds of computing."""
    values = standing(model, average, optimizers) | {"spent": spent, "step": step}
    save(state / "denoiser.pt", values, latent_space(vae))


def train_denoiser(
    state: Path, vae: Any, minutes: float, seed: int, *, rate: float = 1.0, amount: int = 24_000
) -> None:
    """Train for what is left of the minutes; the state is saved every three.

    Args:
        rate: learning rate as a share of that for a start from nothing.
        amount: scenes to train on.
    """
    torch.manual_seed(seed)
    model = make_model()
    model["unet"].to(memory_format=torch.channels_last)
    start_as_identity(model)
    average = Average(model)
    optimizers = make_optimizers(
        model, hidden=0.02 * rate, others=2e-3 * rate, outer=("conv_in", "conv_out", "embedding")
    )
    spent, step = 0.0, 0
    if (saved := load(state / "denoiser.pt", latent_space(vae))) is not None:
        resume(saved, model, average, optimizers)
        spent, step = saved["spent"], saved["step"]
    if spent >= 60 * minutes:
        return
    parts = make_pool(state, vae, amount, seed)
    cumulative, tokenizer = alphas_cumprod(), make_tokenizer()
    ids = [torch.tensor([encoded.ids for encoded in tokenizer.encode_batch(part["captions"])]) for part in parts]
    empty = torch.tensor(tokenizer.encode("").ids)
    random = np.random.default_rng(seed + 2 + step)
    began, saved_at, losses = computed() - spent, computed(), []
    while (elapsed := computed() - began) < 60 * minutes:
        share = elapsed / (60 * minutes)
        part = int(random.choice(len(parts), p=[entry["share"] for entry in parts]))
        latents_of_part = parts[part]["latents"]
        rows = max(8, 64 * 256 // (latents_of_part.shape[2] * latents_of_part.shape[3]))
        chosen = torch.from_numpy(random.integers(0, len(latents_of_part), min(rows, 96, len(latents_of_part))))
        clean = latents_of_part[chosen].float().contiguous(memory_format=torch.channels_last)
        tokens = ids[part][chosen].clone()
        tokens[torch.rand(len(chosen)) < DROPOUT] = empty
        timesteps = draw_timesteps(len(chosen))
        alpha = cumulative[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn_like(clean) + background_offset(timesteps, alpha)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        context = model["text"](input_ids=tokens).last_hidden_state
        loss = denoiser_loss(model["unet"](noisy, timesteps, context).sample, noise, alpha)
        descend(loss, model, optimizers, step, 0.02 + 0.98 * min(1.0, 1.5 * (1 - share)))
        average.follow(model, step)
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            report(f"denoiser step {step} ({share:.0%}) loss {np.mean(losses[-100:]):.4f}")
        if computed() - saved_at > 180:
            saved_at = computed()
            save_denoiser(state, vae, model, average, optimizers, saved_at - began, step)
    save_denoiser(state, vae, model, average, optimizers, computed() - began, step)
    report(f"denoiser done after {step} steps")
