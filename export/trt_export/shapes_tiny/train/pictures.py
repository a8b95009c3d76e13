"""Drawn pictures as tensors, and which of their pixels count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


def to_tensor(pictures: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    """uint8 [H, W, 3] pictures as float32 [rows, 3, H, W] in -1..1."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return (stacked / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_pixels(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """float32 [rows, 3, H, W] in -1..1 as uint8 [rows, H, W, 3]; what lies outside is clipped."""
    pixels: NDArray[np.uint8] = ((tensor.permute(0, 2, 3, 1) + 1) * 127.5).clamp(0, 255).round().byte().numpy()
    return pixels


def on_shapes(pictures: torch.Tensor) -> torch.Tensor:
    """Which pixels differ from the background, that of the upper left corner: bool [rows, 1, H, W]."""
    return (pictures - pictures[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.2
