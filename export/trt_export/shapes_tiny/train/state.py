"""The files of a training run: each is whole at any moment, and knows what it was made with.

A file that belongs to something else (latents of an older autoencoder, say) is as good as none: it is made anew.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


def save(file: Path, values: dict[str, Any], belongs_to: str = "") -> None:
    """Write values so that a stop in the middle leaves the last file whole.

    Args:
        belongs_to: fingerprint of what the values were made with, if of anything; `load` asks for it again.
    """
    partial = file.with_suffix(".partial")
    torch.save(values | {"belongs_to": belongs_to}, partial)
    partial.replace(file)


def load(file: Path, belongs_to: str = "") -> dict[str, Any] | None:
    """The values of a file, or None when there is none or it belongs to something else."""
    if not file.exists():
        return None
    values: dict[str, Any] = torch.load(file, weights_only=True)
    if values.get("belongs_to") != belongs_to:
        report(f"{file.name} was made with other weights than now: it is made anew")
        return None
    return values


def fingerprint(*networks: nn.Module, scale: float = 1.0) -> str:
    """A digest of weights, of their names' order, and of a number that goes with them."""
    digest = hashlib.sha256(repr(scale).encode())
    for network in networks:
        for value in network.state_dict().values():
            digest.update(value.float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def latent_space(vae: Any) -> str:
    """A fingerprint of what decides a picture's latents: the encoder and the scale, but not the decoder."""
    return fingerprint(vae.encoder, vae.quant_conv, scale=vae.config.scaling_factor)


def computed() -> float:
    """Seconds that this process has computed, as if all its threads had worked all the time."""
    threads: int = torch.get_num_threads()
    return time.process_time() / threads


def report(line: str) -> None:
    """One line of progress with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)  # noqa: T201 - a training run's console is its log
