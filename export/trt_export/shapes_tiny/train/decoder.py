"""The decoder once more: to draw shapes whole from latents as the denoiser leaves them, not as the encoder made them.

A shape of three latents' width that the denoiser draws a little wrong comes out of a decoder that only ever saw
encoded pictures as another shape. The encoder stays as it is, and with it the latents, the denoiser, and the graphs.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trt_export.shapes_tiny.networks import alphas_cumprod
from trt_export.shapes_tiny.scenes import Scene, caption, draw, practice_scene, random_scene
from trt_export.shapes_tiny.train.optimise import Average, descend, make_optimizers, resume, standing
from trt_export.shapes_tiny.train.pictures import on_shapes, to_pixels, to_tensor
from trt_export.shapes_tiny.train.state import computed, fingerprint, load, report, save
from trt_export.shapes_tiny.vocabulary import make_tokenizer

ROWS = 8
SIZES = (((128, 128), 0.8), ((64, 64), 0.1), ((192, 128), 0.05), ((128, 192), 0.05))
NOISE = (150, 650)
"""Noise levels that a picture is put to before the denoiser restores it: what it gets wrong, at a place still given."""
GUIDANCE = (1.0, 6.0)
DENOISER_CALLS = 4


def refined_vae(state: Path, vae: Any) -> Any:
    """`vae`, as its own training left it, with the averaged weights of its refined decoder.

    Raises: FileNotFoundError: no decoder was refined for this autoencoder.
    """
    saved = load(state / "decoder.pt", fingerprint(vae))
    if saved is None:
        raise FileNotFoundError(f"{state / 'decoder.pt'} holds no decoder of this autoencoder; refine it first")
    _trained_part(vae).load_state_dict(saved["average"])
    return vae.eval()


def refine_decoder(
    state: Path, vae: Any, model: nn.ModuleDict, minutes: float, seed: int, *, amount: int = 4_000
) -> None:
    """Train `vae`'s decoder for what is left of the minutes; the state is saved every three.

    Args:
        vae: as its own training left it; its encoder is not touched.
        model: text encoder and denoiser of the same latent space.
        amount: scenes to train on.
    """
    torch.manual_seed(seed)
    file, belongs_to = state / "decoder.pt", fingerprint(vae)
    restored_by = fingerprint(vae, model)
    decoder = _trained_part(vae)
    average = Average(decoder)
    optimizers = make_optimizers(decoder, hidden=0.004, others=4e-4, outer=("conv_in", "conv_out", "quant"))
    spent, step = 0.0, 0
    if (saved := load(file, belongs_to)) is not None:
        resume(saved, decoder, average, optimizers)
        spent, step = saved["spent"], saved["step"]

    def keep() -> None:
        values = standing(decoder, average, optimizers) | {"spent": computed() - began, "step": step}
        save(file, values, belongs_to)

    parts = make_restored(state, vae, model, amount, seed, restored_by) if spent < 60 * minutes else []
    decoder.to(memory_format=torch.channels_last).train()
    random = np.random.default_rng(seed + 4 + step)
    began, saved_at, losses = computed() - spent, computed(), []
    while (elapsed := computed() - began) < 60 * minutes:
        share = elapsed / (60 * minutes)
        part = parts[int(random.choice(len(parts), p=[entry["share"] for entry in parts]))]
        rows = min(ROWS, len(part["pictures"]))
        chosen = torch.from_numpy(random.integers(0, len(part["pictures"]), rows))
        pictures = to_tensor(list(part["pictures"][chosen].numpy()))
        latents = torch.where(torch.rand(rows, 1, 1, 1) < 0.3, part["encoded"][chosen], part["restored"][chosen])
        decoded = decoder["decoder"](decoder["post_quant_conv"](latents.float()))
        loss = decoder_loss(decoded, pictures)
        descend(loss, decoder, optimizers, step, 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * share)))
        average.follow(decoder, step)
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            report(f"decoder step {step} ({share:.0%}) loss {np.mean(losses[-100:]):.4f}")
        if computed() - saved_at > 180:
            saved_at = computed()
            keep()
    keep()
    report(f"decoder done after {step} steps")


def _trained_part(vae: Any) -> nn.ModuleDict:
    return nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})


def decoder_loss(decoded: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Mean error of pixels, in which shapes weigh as much as the background however small they are, and edges more.

    Args:
        decoded, pictures: [rows, 3, H, W] in -1..1.
    """
    shapes = on_shapes(pictures).float()
    near_edge = functional.max_pool2d(shapes, 5, 1, 2) - (1 - functional.max_pool2d(1 - shapes, 5, 1, 2))
    emphasis = shapes + near_edge
    weight = 1 + emphasis / emphasis.mean((1, 2, 3), keepdim=True).clamp(min=0.01)
    error = decoded - pictures
    return (weight * (error.abs() + 2 * error.square())).mean()


def make_restored(
    state: Path, vae: Any, model: nn.ModuleDict, amount: int, seed: int, belongs_to: str
) -> list[dict[str, Any]]:
    """Pictures, their latents, and these latents after noise and the denoiser; one entry per size of picture."""
    file = state / "restored.pt"
    if (saved := load(file, belongs_to)) is not None:
        return list(saved["parts"])
    random = np.random.default_rng(seed + 3)
    parts = []
    for (width, height), share in SIZES:
        entries = []
        wanted = math.ceil(amount * share)
        chunk = min(wanted, 32)
        for _ in range(math.ceil(wanted / chunk)):
            scenes = [(practice_scene, random_scene)[number % 2](random) for number in range(chunk)]
            pictures = to_tensor([draw(scene, width, height, random) for scene in scenes])
            with torch.inference_mode():
                encoded = vae.encode(pictures).latent_dist.mode()
                level = int(random.integers(*NOISE))
                guidance = float(random.uniform(*GUIDANCE))
                restored = restore(model, encoded * vae.config.scaling_factor, scenes, level, guidance)
            pixels = torch.from_numpy(to_pixels(pictures))
            entries.append((pixels, encoded.half(), (restored / vae.config.scaling_factor).half()))
        pixels, encoded, restored = (torch.cat(column) for column in zip(*entries, strict=True))
        parts.append({"pictures": pixels, "encoded": encoded, "restored": restored, "share": share})
        report(f"restored {width}x{height}: {len(pixels)} scenes")
    save(file, {"parts": parts}, belongs_to)
    return parts


def restore(
    model: nn.ModuleDict, clean: torch.Tensor, scenes: list[Scene], level: int, guidance: float
) -> torch.Tensor:
    """Latents after noise of a level and a few calls of the denoiser, told what is on the picture.

    Args:
        clean: [rows, 4, h, w] in the denoiser's units.
        level: timestep from which the denoiser starts, 0..999.
        guidance: 1.0 means no negative branch.
    Source: Song et al. 2021, arXiv:2010.02502, eq. 12 with a standard deviation of 0.
    """
    tokenizer = make_tokenizer()
    words = [caption(scene) for scene in scenes] + [""] * len(scenes)
    context = model["text"](input_ids=torch.tensor([tokenizer.encode(line).ids for line in words])).last_hidden_state
    cumulative = alphas_cumprod()
    levels = [round(level * (1 - call / DENOISER_CALLS)) for call in range(DENOISER_CALLS + 1)]
    alpha = cumulative[level]
    sample = alpha.sqrt() * clean + (1 - alpha).sqrt() * torch.randn_like(clean)
    estimate = sample
    for now, following in itertools.pairwise(levels):
        alpha = cumulative[now]
        told, untold = model["unet"](torch.cat([sample, sample]), now, context).sample.chunk(2)
        noise = untold + guidance * (told - untold)
        estimate = (sample - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        sample = cumulative[following].sqrt() * estimate + (1 - cumulative[following]).sqrt() * noise
    return estimate
