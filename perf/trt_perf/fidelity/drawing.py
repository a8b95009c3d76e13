"""One picture, twice: diffusers' modules stepped by a plain loop, and the worker's own way."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from time import monotonic
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from trt_engines.architectures.prompting import Vocabulary
from trt_engines.backends.ladder import make_backends
from trt_engines.model import Model
from trt_engines.residency import Memory
from trt_engines.vocabularies import byte_pairs
from trt_perf.fidelity.random_models import RandomModel
from trt_worker import frames
from trt_worker.condition.chunks import chunk
from trt_worker.condition.source import source_pixels
from trt_worker.condition.tokenizer import clip_tokenizer
from trt_worker.condition.weights import parse_weights
from trt_worker.denoise.levels import parameterisation_of
from trt_worker.denoise.schedules import sigmas
from trt_worker.device.feeds import Inputs
from trt_worker.device.loop import DeviceLoop
from trt_worker.device.preparation import Preparation
from trt_worker.job import ImageSeed, JobSpec, SourceFit

Picture = NDArray[np.uint8]

WIDTH, HEIGHT = 96, 64
BLANK = (0.8223, -0.6876, 0.6364, 0.1380)
"""What inpainting models are given under a mask of everything."""

_PADS = {"stable_diffusion_1": (49407,), "stable_diffusion_2": (0,), "sdxl": (49407, 0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a picture is asked for, and what a wrong one has instead."""

    prompt: str = "a red circle beside (a blue square:1.3) " + "on the quiet green hills of a far country, " * 8
    negative: str = "a yellow star"
    layer: int = 1
    seed: int = 7
    pooled_of: str | None = None  # of another prompt; None: the same
    sizes: tuple[int, ...] = (HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH)
    source: bytes | None = None
    strength: float = 1.0
    mask: NDArray[np.float32] | None = None  # [1, h, w]; with it the latent under it
    masked: NDArray[np.float32] | None = None
    steps: int = 4
    guidance: float = 3.0


def a_source(seed: int = 3) -> bytes:
    """A smooth picture, as PNG."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(encoded, "PNG")
    return encoded.getvalue()


def psnr(one: Picture, other: Picture) -> float:
    """Peak signal-to-noise ratio in dB; of equal pictures 99."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return min(10 * math.log10(255**2 / error), 99.0) if error else 99.0


def plain(model: RandomModel, facts: Model, wish: Wish) -> Picture:
    """Diffusers' modules in a plain loop of Euler's, one call a prompt, with our tokens, noise levels and noise.

    Args: facts: the model as it was added, for its noise levels.
    """
    family = next(name for name in _PADS if model.architecture.startswith(name))
    levels = parameterisation_of(facts.levels, shift=None, width=WIDTH, height=HEIGHT, steps=wish.steps)
    ladder = sigmas("normal", levels, wish.steps, strength=wish.strength, sampler="euler")
    latent = torch.randn(1, 4, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(wish.seed))
    of_noise, of_latent = levels.start_scales(float(ladder[0]))
    scale = model.autoencoder.config.scaling_factor
    latent = latent * of_noise
    if wish.source is not None:
        pixels = torch.from_numpy(_pixels(wish.source)[None])
        latent = latent + of_latent * model.autoencoder.encode(pixels).latent_dist.mode() * scale
    texts = [_text(model, family, prompt, wish) for prompt in (wish.prompt, wish.negative)]
    with torch.inference_mode():
        for now, after in pairwise(ladder):
            given = latent / math.sqrt(now**2 + 1)
            time = torch.tensor([levels.timestep(now)])
            if wish.mask is not None and wish.masked is not None:
                given = torch.cat([given, torch.from_numpy(wish.mask[None]), torch.from_numpy(wish.masked[None])], 1)
            first, second = (
                model.denoiser(given, time, context, added_cond_kwargs=added, return_dict=False)[0]
                for context, added in texts
            )
            predicted = second + wish.guidance * (first - second)
            if levels.prediction == "v_prediction":
                clean = latent / (now**2 + 1) - predicted * now / math.sqrt(now**2 + 1)
            else:
                clean = latent - now * predicted
            latent = latent + (latent - clean) / now * (after - now)
        pixels = model.autoencoder.decode(latent / scale, return_dict=False)[0][0]
    picture: Picture = ((pixels / 2 + 0.5).clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return picture


def _text(model: RandomModel, family: str, prompt: str, wish: Wish) -> tuple[torch.Tensor, Mapping[str, Any] | None]:
    """Context and what else SDXL is given of a prompt."""
    tokenizer = clip_tokenizer(*byte_pairs(Vocabulary.CLIP))
    parts, added = [], None
    with torch.inference_mode():
        for encoder, pad in zip(model.text_encoders, _PADS[family], strict=True):
            pieces = chunk(parse_weights(prompt), tokenizer, size=77, pad=pad, most=32)
            nothing = chunk(parse_weights(""), tokenizer, size=77, pad=pad, most=1)
            states, empty = (
                _layer(encoder, torch.from_numpy(one.ids), wish.layer, normed=family != "sdxl")
                for one in (pieces, nothing)
            )
            weighted = (states - empty) * torch.from_numpy(pieces.weights)[:, :, None] + empty
            parts.append(weighted.reshape(1, -1, weighted.shape[-1]))
        if family == "sdxl":
            asked = wish.pooled_of if wish.pooled_of is not None else prompt
            pieces = chunk(parse_weights(asked), tokenizer, size=77, pad=0, most=32)
            pooled = model.text_encoders[1](torch.from_numpy(pieces.ids[:1])).text_embeds
            added = {"text_embeds": pooled, "time_ids": torch.tensor([wish.sizes], dtype=torch.float32)}
    return torch.cat(parts, dim=-1), added


def _layer(encoder: Any, ids: torch.Tensor, layer: int, *, normed: bool) -> torch.Tensor:
    states = encoder(ids, output_hidden_states=True).hidden_states[-layer]
    norm = next(part for name, part in encoder.named_modules() if name.endswith("final_layer_norm"))
    found: torch.Tensor = norm(states) if normed else states
    return found


def _pixels(source: bytes) -> NDArray[np.float32]:
    return source_pixels(source, WIDTH, HEIGHT, SourceFit.STRETCH)


class PaintingLoop(DeviceLoop):
    """A device's loop whose jobs bring a mask and the latent under it, which no network's job does yet."""

    given: Inputs = MappingProxyType({})

    def _prepare(self, run: frames.Run, source: bytes) -> Preparation:
        return replace(super()._prepare(run, source), given=self.given)


def drawn(model: Model, backend: str, wish: Wish, threads: int = 2) -> Picture:
    """The worker's own way, from a job to its picture. Raises: RuntimeError: the job failed."""
    pictures: list[Picture] = []

    def emit(header: frames.FromDevice, body: NDArray[np.uint8] | None) -> None:
        if isinstance(header, frames.Failed):
            raise RuntimeError(f"{model.name} on {backend} failed ({header.kind}): {header.message}")
        if isinstance(header, frames.Pixels) and body is not None:
            pictures.append(body.copy())

    (made,) = make_backends((backend,), threads=threads, sm=None)
    loop = PaintingLoop(
        {model.name: model}, {backend: made}, max_rows=2, budgets=dict.fromkeys(Memory, 2**33), emit=emit
    )
    if wish.mask is not None and wish.masked is not None:
        loop.given = {"mask": wish.mask, "masked_latent": wish.masked}
    job = JobSpec(
        id="wish",
        model=model.name,
        prompt=wish.prompt,
        negative_prompt=wish.negative,
        width=WIDTH,
        height=HEIGHT,
        steps=wish.steps,
        guidance=wish.guidance,
        sampler="euler",
        scheduler="normal",
        strength=wish.strength,
        clip_skip=wish.layer,
        seeds=(ImageSeed(value=wish.seed),),
        received=monotonic(),
        due=monotonic() + 3600,
    )
    loop.take(frames.Run(backend=backend, job=job), wish.source or b"")
    while loop.busy:
        loop.step()
    (picture,) = pictures
    return picture
