"""The autoencoder, trained on drawn pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trt_export.shapes_tiny.networks import make_vae
from trt_export.shapes_tiny.scenes import draw, practice_scene, random_scene
from trt_export.shapes_tiny.train.optimise import descend, make_optimizers, start_as_identity
from trt_export.shapes_tiny.train.pictures import on_shapes, to_tensor
from trt_export.shapes_tiny.train.state import computed, load, report, save


def trained_vae(state: Path) -> Any:
    """The autoencoder of the state folder, as its own training left it. Raises: FileNotFoundError: there is none."""
    saved = load(state / "vae.pt")
    if saved is None:
        raise FileNotFoundError(f"{state / 'vae.pt'} is missing; train the autoencoder first")
    vae = make_vae()
    vae.load_state_dict(saved["weights"])
    vae.register_to_config(scaling_factor=saved["scaling_factor"])
    return vae.eval()


def save_vae(state: Path, vae: Any, spent: float, step: int) -> None:
    """Write the autoencoder; `spent` is in seconds of computing, infinite when it shall not be trained further."""
    values = {"weights": vae.state_dict(), "scaling_factor": vae.config.scaling_factor, "spent": spent, "step": step}
    save(state / "vae.pt", values)


def train_vae(state: Path, minutes: float, seed: int) -> Any:
    """Train the autoencoder for what is left of its minutes; sets its scaling factor."""
    torch.manual_seed(seed)
    vae = make_vae().to(memory_format=torch.channels_last)
    spent, step = 0.0, 0
    if (saved := load(state / "vae.pt")) is not None:
        vae = trained_vae(state).to(memory_format=torch.channels_last)
        spent, step = saved["spent"], saved["step"]
        if spent >= 60 * minutes:
            return vae
        vae.train()
    else:
        start_as_identity(vae)
    random = np.random.default_rng(seed + step)
    optimizers = make_optimizers(vae, hidden=0.03, others=3e-3, outer=("conv_in", "conv_out", "quant"))
    began = computed() - spent
    while (elapsed := computed() - began) < 60 * minutes:
        share = elapsed / (60 * minutes)
        pictures = vae_batch(random, step, share)
        latent = vae.encode(pictures).latent_dist.mode()
        # A little noise in place of a sampled posterior keeps the latents smooth, and training starts at once.
        decoded = vae.decode(latent + 0.05 * latent.std().detach() * torch.randn_like(latent)).sample
        error = decoded - pictures
        # Shapes cover a tenth of a picture: without a weight their colours are learned last.
        weight = 1 + 4 * on_shapes(pictures).float()
        loss = (weight * (error.abs() + 2 * error.square())).mean() + 1e-4 * latent.square().mean()
        descend(loss, vae, optimizers, step, 0.5 + 0.5 * math.cos(math.pi * share))
        if step % 100 == 0:
            psnr = 10 * math.log10(4 / max(error.square().mean().item(), 1e-9))
            report(f"vae step {step} ({share:.0%}) loss {loss.item():.4f} psnr {psnr:.1f} dB")
        step += 1
    vae.eval()
    with torch.inference_mode():
        pictures = to_tensor([draw(random_scene(random), 128, 128, random) for _ in range(128)])
        scaling = 1 / vae.encode(pictures).latent_dist.mode().std().item()
    vae.register_to_config(scaling_factor=scaling)
    save_vae(state, vae, 60 * minutes, step)
    report(f"vae done after {step} steps, scaling factor {scaling:.4f}")
    return vae


def vae_batch(random: np.random.Generator, step: int, share: float) -> torch.Tensor:
    """Pictures for one step of the autoencoder: float32 [rows, 3, H, W], the same number of pixels at every step.

    The networks are convolutional, so most steps see many small parts of pictures; whole pictures come more often
    towards the end, for their normalisation statistics are those that the finished model meets.
    """
    if random.random() < (0.1 if share < 0.6 else 0.5):
        side, rows = ((128, 2), (192, 1))[step % 2]
        return to_tensor([draw(practice_scene(random), side, side, random) for _ in range(rows)])
    pictures = []
    for _ in range(8):
        picture = draw(practice_scene(random), 128, 128, random)
        top, left = random.integers(2, 7, 2) * 8
        pictures.append(picture[top : top + 64, left : left + 64])
    return to_tensor(pictures)
