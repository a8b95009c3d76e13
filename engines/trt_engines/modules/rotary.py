"""Rotary position embeddings and sinusoids in real float32 arithmetic, as a graph can hold them.

The libraries' own use complex numbers or float64. Frequencies are literals here, computed once in float64: they depend
on the configuration alone, and a module built of fake tensors has no values to keep them in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosine and sine of the angle of each pair: [tokens, pairs], or [rows, tokens, pairs], float32."""


def frequencies(width: int, theta: float) -> list[float]:
    """Angle per position of each of `width / 2` pairs.

    Source: Su et al. 2021, arXiv:2104.09864, section 3.2.2.
    """
    return [theta ** (-2 * pair / width) for pair in range(width // 2)]


def rotation(positions: Sequence[torch.Tensor], widths: Sequence[int], theta: float) -> Rotation:
    """The rotation of tokens that have a position on each of several axes.

    Args:
        positions: per axis, float32 [tokens] or [rows, tokens].
        widths: per axis, how many of a head's values it turns; even.
        theta: base of the frequencies.
    """
    angles = torch.cat(
        [
            position[..., None] * torch.tensor(frequencies(width, theta), dtype=torch.float32, device=position.device)
            for position, width in zip(positions, widths, strict=True)
        ],
        dim=-1,
    )
    return angles.cos(), angles.sin()


def grid_positions(height: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of each patch of an image, row by row: two float32 [height * width]."""
    rows = torch.arange(height, dtype=torch.float32, device=device)
    columns = torch.arange(width, dtype=torch.float32, device=device)
    return (
        rows[:, None].expand(height, width).reshape(height * width),
        columns[None, :].expand(height, width).reshape(height * width),
    )


def rotate_pairs(values: torch.Tensor, by: Rotation) -> torch.Tensor:
    """Turn neighbouring values (2k, 2k + 1) of each head: [rows, tokens, heads, width], computed in float32."""
    cosine, sine = (part.unsqueeze(-2) for part in by)
    real, imaginary = values.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=-1)
    return turned.flatten(-2).to(values.dtype)


def rotate_halves(values: torch.Tensor, by: Rotation) -> torch.Tensor:
    """Turn values k and k + width / 2 of each head: [rows, tokens, heads, width], computed in float32."""
    cosine, sine = (part.unsqueeze(-2) for part in by)
    real, imaginary = values.float().chunk(2, dim=-1)
    return torch.cat([real * cosine - imaginary * sine, imaginary * cosine + real * sine], dim=-1).to(values.dtype)


def sinusoid(times: torch.Tensor, width: int, period: float = 10000.0) -> torch.Tensor:
    """Cosines, then sines, of `times` [rows] at `width / 2` falling frequencies: float32 [rows, width].

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5, in the order of guided diffusion (cosines first).
    """
    angles = times.float()[:, None] * torch.tensor(
        falling_frequencies(width // 2, period), dtype=torch.float32, device=times.device
    )
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def falling_frequencies(count: int, period: float = 10000.0) -> list[float]:
    """From 1 down to nearly 1 / `period`, in the float32 steps of the reference.

    Times are in thousandths, so a frequency's last bit shows in its angle.
    """
    exponents = np.float32(-math.log(period)) * np.arange(count, dtype=np.float32) / np.float32(count)
    values: list[float] = np.exp(exponents).tolist()
    return values
