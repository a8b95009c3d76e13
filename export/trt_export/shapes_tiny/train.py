"""Train shapes-tiny on the CPU: first the VAE, then text encoder and denoiser together.

    python -m trt_export.shapes_tiny.train --state DIR [--vae-minutes 42] [--denoiser-minutes 82] [--seed 0]

Minutes are of all cores' computing, so that other work beside a run delays it and takes nothing from it. The state
folder holds everything needed to go on after a stop; `export.py` turns it into the model that ships.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from trt_export.shapes_tiny.muon import Muon
from trt_export.shapes_tiny.scenes import caption, draw, practice_scene, random_scene
from trt_export.shapes_tiny.vocabulary import make_tokenizer

TRAIN_STEPS = 1000
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
POOL = 24_000


def make_vae() -> Any:
    """An 8x autoencoder with Stable Diffusion's layout, small enough to draw on a processor."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        mid_block_add_attention=False,
        norm_num_groups=4,  # few: a group loses its mean, and with it the flat colours of plain pictures
        sample_size=128,
        scaling_factor=1.0,
    )


def make_text_encoder() -> Any:
    """CLIP's text model with its real vocabulary and few features."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49_408,
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            bos_token_id=49_406,
            eos_token_id=49_407,
            pad_token_id=49_407,
        )
    )


def make_denoiser() -> Any:
    """Stable Diffusion's conditional UNet with attention only where the grid is coarse."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def alphas_cumprod() -> torch.Tensor:
    """Stable Diffusion's noise schedule: float32 [1000]."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TRAIN_STEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def to_tensor(pictures: list[np.ndarray]) -> torch.Tensor:
    """uint8 [H, W, 3] pictures as float32 [rows, 3, H, W] in -1..1."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return (stacked / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def start_as_identity(network: nn.Module) -> None:
    """Let every residual branch add nothing at first: a deep network that starts shallow learns sooner."""
    for name, parameter in network.named_parameters():
        if ".conv2." in name:
            nn.init.zeros_(parameter)


def make_optimizers(
    network: nn.Module, *, hidden: float, others: float, outer: tuple[str, ...]
) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the hidden weights, AdamW for the rest; each group's `peak` is its highest learning rate.

    Args:
        hidden, others: learning rates of the two.
        outer: parts of the names of weights that face pixels, latents or tokens, and so belong to the rest.
    """
    weights = [
        parameter
        for name, parameter in network.named_parameters()
        if parameter.ndim > 1 and not any(part in name for part in outer)
    ]
    known = {id(parameter) for parameter in weights}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in known]
    made: tuple[torch.optim.Optimizer, ...] = (
        Muon(weights, lr=hidden),
        torch.optim.AdamW(rest, lr=others, betas=(0.9, 0.95), weight_decay=0.0),
    )
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def descend(
    loss: torch.Tensor,
    network: nn.Module,
    optimizers: tuple[torch.optim.Optimizer, ...],
    step: int,
    pace: float,
) -> None:
    """One update of all weights.

    Args:
        step: from 0; the first fifty are a warm-up.
        pace: learning rate as a share of each group's peak.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * min(1.0, (step + 1) / 50) * pace
        optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()


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


def train_vae(state: Path, minutes: float, seed: int) -> Any:
    """Train the autoencoder for what is left of its minutes; sets its scaling factor."""
    file = state / "vae.pt"
    torch.manual_seed(seed)
    vae = make_vae().to(memory_format=torch.channels_last)
    spent, step = 0.0, 0
    if file.exists():
        saved = torch.load(file, weights_only=True)
        vae.load_state_dict(saved["weights"])
        vae.register_to_config(scaling_factor=saved["scaling_factor"])
        spent, step = saved["spent"], saved["step"]
        if spent >= 60 * minutes:
            return vae.eval()
    else:
        start_as_identity(vae)
    random = np.random.default_rng(seed + step)
    optimizers = make_optimizers(vae, hidden=0.03, others=3e-3, outer=("conv_in", "conv_out", "quant"))
    began = computed() - spent
    while (share := (computed() - began) / (60 * minutes)) < 1:
        pictures = vae_batch(random, step, share)
        latent = vae.encode(pictures).latent_dist.mode()
        # A little noise in place of a sampled posterior keeps the latents smooth, and training starts at once.
        decoded = vae.decode(latent + 0.05 * latent.std().detach() * torch.randn_like(latent)).sample
        error = decoded - pictures
        # Shapes cover a tenth of a picture: without a weight their colours are learned last.
        shown = (pictures - pictures[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.2
        weight = 1 + 4 * shown.float()
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
    torch.save({"weights": vae.state_dict(), "scaling_factor": scaling, "spent": 60 * minutes, "step": step}, file)
    report(f"vae done after {step} steps, scaling factor {scaling:.4f}")
    return vae


def make_pool(state: Path, vae: Any, seed: int) -> list[dict[str, Any]]:
    """Latents and captions of many scenes, one entry per picture size."""
    file = state / "pool.pt"
    if file.exists():
        return list(torch.load(file, weights_only=True))
    random = np.random.default_rng(seed + 1)
    pool = []
    for (width, height), share in SIZES:
        latents: list[torch.Tensor] = []
        captions: list[str] = []
        chunk = max(4, 32 * 128 * 128 // (width * height))
        while len(captions) < POOL * share:
            scenes = [practice_scene(random) for _ in range(chunk)]
            pictures = to_tensor([draw(scene, width, height, random) for scene in scenes])
            with torch.inference_mode():
                latents.append((vae.encode(pictures).latent_dist.mode() * vae.config.scaling_factor).half())
            captions += [caption(scene, int(random.integers(0, 15))) for scene in scenes]
        pool.append({"latents": torch.cat(latents), "captions": captions, "share": share})
        report(f"pool {width}x{height}: {len(captions)} scenes")
    torch.save(pool, file)
    return pool


def train_denoiser(state: Path, vae: Any, minutes: float, seed: int) -> None:
    """Train text encoder and denoiser on the pool; the averaged weights are saved every few minutes."""
    torch.manual_seed(seed)
    pool = make_pool(state, vae, seed)
    tokenizer = make_tokenizer()
    model = nn.ModuleDict({"text": make_text_encoder(), "unet": make_denoiser()})
    model["unet"].to(memory_format=torch.channels_last)
    report(f"parameters: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M")
    start_as_identity(model)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    optimizers = make_optimizers(model, hidden=0.02, others=2e-3, outer=("conv_in", "conv_out", "embedding"))
    spent, step, file = 0.0, 0, state / "denoiser.pt"
    if file.exists():
        saved = torch.load(file, weights_only=True)
        model.load_state_dict(saved["weights"])
        average, spent, step = saved["average"], saved["spent"], saved["step"]
        for optimizer, moments in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(moments)
    cumulative = alphas_cumprod()
    ids = [torch.tensor([encoded.ids for encoded in tokenizer.encode_batch(part["captions"])]) for part in pool]
    empty = torch.tensor(tokenizer.encode("").ids)
    random = np.random.default_rng(seed + 2 + step)
    began, saved_at, losses = computed() - spent, computed(), []
    while (share := (computed() - began) / (60 * minutes)) < 1:
        part = int(random.choice(len(pool), p=[entry["share"] for entry in pool]))
        latents_of_part = pool[part]["latents"]
        rows = max(8, 64 * 256 // (latents_of_part.shape[2] * latents_of_part.shape[3]))
        chosen = torch.from_numpy(random.integers(0, len(latents_of_part), min(rows, 96)))
        clean = latents_of_part[chosen].float().contiguous(memory_format=torch.channels_last)
        tokens = ids[part][chosen].clone()
        tokens[torch.rand(len(chosen)) < DROPOUT] = empty
        timesteps = torch.randint(0, TRAIN_STEPS, (len(chosen),))
        alpha = cumulative[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn_like(clean)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        context = model["text"](input_ids=tokens).last_hidden_state
        predicted = model["unet"](noisy, timesteps, context).sample
        signal_to_noise = (alpha / (1 - alpha)).flatten()
        weight = signal_to_noise.clamp(max=5.0) / signal_to_noise
        loss = (weight * functional.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))).mean()
        descend(loss, model, optimizers, step, 0.02 + 0.98 * min(1.0, 1.5 * (1 - share)))
        decay = min(0.9985, (1 + step) / (20 + step))
        with torch.inference_mode():
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - decay) if value.is_floating_point() else average[name].copy_(value)
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            report(f"denoiser step {step} ({share:.0%}) loss {np.mean(losses[-100:]):.4f}")
        if computed() - saved_at > 180:
            saved_at = computed()
            save_denoiser(file, model, average, optimizers, saved_at - began, step)
    save_denoiser(file, model, average, optimizers, computed() - began, step)
    report(f"denoiser done after {step} steps")


def computed() -> float:
    """Seconds that this process has computed, as if all its threads had worked all the time."""
    threads: int = torch.get_num_threads()
    return time.process_time() / threads


def save_denoiser(
    file: Path, model: Any, average: Any, optimizers: tuple[torch.optim.Optimizer, ...], spent: float, step: int
) -> None:
    """Write the state so that a stop in the middle leaves the last one whole."""
    partial = file.with_suffix(".partial")
    moments = [optimizer.state_dict() for optimizer in optimizers]
    state = {"weights": model.state_dict(), "average": average, "optimizers": moments}
    torch.save(state | {"spent": spent, "step": step}, partial)
    partial.replace(file)


def report(line: str) -> None:
    """One line of progress with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)  # noqa: T201 - a training run's console is its log


def main() -> None:
    """Train from where the state folder stands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--vae-minutes", type=float, default=42)
    parser.add_argument("--denoiser-minutes", type=float, default=82)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    vae = train_vae(options.state, options.vae_minutes, options.seed)
    train_denoiser(options.state, vae, options.denoiser_minutes, options.seed)


if __name__ == "__main__":
    main()
