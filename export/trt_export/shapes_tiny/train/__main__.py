"""Train shapes-tiny on the CPU: the autoencoder, then text encoder and denoiser together, then the decoder once more.

    python -m trt_export.shapes_tiny.train --state DIR [--from-model DIR]
        [--vae-minutes 42] [--denoiser-minutes 82] [--decoder-minutes 12] [--seed 0]

Minutes are of all threads' computing, so that other work beside a run delays it and takes nothing from it. The state
folder holds everything needed to go on after a stop, and to go on for longer; what was made with an autoencoder or a
denoiser that has since changed is made anew. `trt_export.shapes_tiny.export` turns it into the model that ships.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from trt_export.shapes_tiny.train.decoder import refine_decoder
from trt_export.shapes_tiny.train.denoiser import train_denoiser, trained_model
from trt_export.shapes_tiny.train.start import start_from_model
from trt_export.shapes_tiny.train.vae import train_vae


def main() -> None:
    """Train from where the state folder stands."""
    parser = argparse.ArgumentParser(description="Train shapes-tiny on the CPU.")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--from-model", type=Path, help="start an empty state folder with the weights of a model")
    parser.add_argument("--vae-minutes", type=float, default=42)
    parser.add_argument("--denoiser-minutes", type=float, default=82)
    parser.add_argument("--denoiser-rate", type=float, default=1.0, help="learning rate as a share of a fresh start's")
    parser.add_argument("--decoder-minutes", type=float, default=12)
    parser.add_argument("--scenes", type=int, default=24_000, help="that the denoiser learns from")
    parser.add_argument("--threads", type=int, help="of all networks; as many as there are cores if not said")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.state.mkdir(parents=True, exist_ok=True)
    if options.from_model and not (options.state / "vae.pt").exists():
        start_from_model(options.from_model, options.state)
    vae = train_vae(options.state, options.vae_minutes, options.seed)
    train_denoiser(
        options.state,
        vae,
        options.denoiser_minutes,
        options.seed,
        rate=options.denoiser_rate,
        amount=options.scenes,
    )
    refine_decoder(options.state, vae, trained_model(options.state, vae), options.decoder_minutes, options.seed)


if __name__ == "__main__":
    main()
