"""A state folder that starts with the weights of a finished model, whose own training state is gone."""

from __future__ import annotations

import math
from pathlib import Path

from trt_export.shapes_tiny.networks import load_model
from trt_export.shapes_tiny.train.denoiser import save_denoiser
from trt_export.shapes_tiny.train.optimise import Average
from trt_export.shapes_tiny.train.vae import save_vae


def start_from_model(folder: Path, state: Path) -> None:
    """Write the state from a model folder.

    The autoencoder counts as finished, for the denoiser lives in its latents; optimizers start anew.
    """
    model, vae = load_model(folder)
    save_vae(state, vae, spent=math.inf, step=0)
    save_denoiser(state, vae, model, Average(model), (), spent=0.0, step=0)
