"""What limits a model, measured on captions that neither training nor the figure `shapes_correct` uses.

    python -m trt_export.shapes_tiny.validate [--model DIR | --state DIR] [--scenes 200] [--seed 0]

Prints how many scenes are right after the autoencoder alone, which bounds what the denoiser can reach, and how many
when painted from noise. Choices are made on these numbers; the held-out captions only judge the result.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from numpy.typing import NDArray
from torch import nn

from trt_export.shapes_tiny.check import judge
from trt_export.shapes_tiny.networks import load_model
from trt_export.shapes_tiny.scenes import BACKGROUNDS, Scene, caption, draw, held_out_scenes, random_scene
from trt_export.shapes_tiny.train.decoder import refined_vae
from trt_export.shapes_tiny.train.denoiser import trained_model
from trt_export.shapes_tiny.train.pictures import to_pixels, to_tensor
from trt_export.shapes_tiny.train.state import report
from trt_export.shapes_tiny.train.vae import trained_vae
from trt_export.shapes_tiny.vocabulary import FOLDER, make_tokenizer

SIDE = 128
STEPS = 20
GUIDANCE = 5.0
ROWS = 25

Pictures = NDArray[np.uint8]


def validation_scenes(amount: int, seed: int = 7) -> tuple[Scene, ...]:
    """Different scenes of combinations that are never trained, none of them among `held_out_scenes`."""
    judged = {caption(scene) for scene in held_out_scenes()}
    random = np.random.default_rng(seed)
    found: dict[str, Scene] = {}
    while len(found) < amount:
        scene = random_scene(random, held_out=True)
        if caption(scene) not in judged:
            found.setdefault(caption(scene), scene)
    return tuple(found.values())


def reconstruct(vae: Any, scenes: Sequence[Scene]) -> Pictures:
    """Drawn scenes after the autoencoder: uint8 [rows, SIDE, SIDE, 3]."""
    pictures = to_tensor([draw(scene, SIDE, SIDE) for scene in scenes])
    with torch.inference_mode():
        return _decode(vae, torch.cat([vae.encode(part).latent_dist.mode() for part in pictures.split(ROWS)]))


def paint(model: nn.ModuleDict, vae: Any, scenes: Sequence[Scene], seed: int = 0) -> Pictures:
    """Scenes painted from noise by their captions, with the sampler of the figure: uint8 [rows, SIDE, SIDE, 3].

    Args:
        seed: of the first scene's noise; the others follow.
    """
    tokenizer = make_tokenizer()
    pictures = []
    for first in range(0, len(scenes), ROWS):
        part = scenes[first : first + ROWS]
        words = [""] * len(part) + [caption(scene) for scene in part]
        ids = torch.tensor([encoded.ids for encoded in tokenizer.encode_batch(words)])
        generators = [torch.Generator().manual_seed(seed + first + row) for row in range(len(part))]
        sample = torch.stack([torch.randn((4, SIDE // 8, SIDE // 8), generator=one) for one in generators])
        scheduler = DPMSolverMultistepScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", use_karras_sigmas=True
        )
        scheduler.set_timesteps(STEPS)
        with torch.inference_mode():
            context = model["text"](input_ids=ids).last_hidden_state
            for timestep in scheduler.timesteps:
                untold, told = model["unet"](torch.cat([sample, sample]), timestep, context).sample.chunk(2)
                sample = scheduler.step(untold + GUIDANCE * (told - untold), timestep, sample).prev_sample
            pictures.append(_decode(vae, sample / vae.config.scaling_factor))
    return np.concatenate(pictures)


def count_right(pictures: Pictures, scenes: Sequence[Scene]) -> int:
    """Pictures on which the check finds the shapes and the colour of their scene."""
    pairs = zip(pictures, scenes, strict=True)
    return sum(judge(picture, shape=scene.shape, colour=scene.colour).right for picture, scene in pairs)


def count_backgrounds(pictures: Pictures, scenes: Sequence[Scene]) -> int:
    """Pictures whose upper edge is nearest to the background of their scene; the check does not ask for it."""
    return sum(
        scene.background
        == min(BACKGROUNDS, key=lambda name: float(np.linalg.norm(np.median(picture[:2], (0, 1)) - BACKGROUNDS[name])))
        for picture, scene in zip(pictures, scenes, strict=True)
    )


def _decode(vae: Any, latents: torch.Tensor) -> Pictures:
    return np.concatenate([to_pixels(vae.decode(part).sample) for part in latents.split(ROWS)])


def main() -> None:
    """Print the counts of a model folder or of a training state."""
    parser = argparse.ArgumentParser(description="Count scenes that shapes-tiny gets right, by what limits them.")
    parser.add_argument("--model", type=Path, default=FOLDER.parent)
    parser.add_argument("--state", type=Path, help="a training state in place of a model folder")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first scene's noise")
    options = parser.parse_args()
    if options.state:
        model = trained_model(options.state, trained_vae(options.state))
        vae = refined_vae(options.state, trained_vae(options.state))
    else:
        model, vae = load_model(options.model)
    scenes = validation_scenes(options.scenes)
    report(f"autoencoder alone: {count_right(reconstruct(vae, scenes), scenes)} of {len(scenes)} right")
    pictures = paint(model, vae, scenes, options.seed)
    report(f"painted: {count_right(pictures, scenes)} right, {count_backgrounds(pictures, scenes)} backgrounds right")


if __name__ == "__main__":
    main()
