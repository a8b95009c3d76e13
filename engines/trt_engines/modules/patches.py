"""Between latents and the tokens of a transformer: 2x2 patches, and attention over tokens."""

from __future__ import annotations

import torch
from torch.nn import functional

PATCH = 2
"""Latent positions along one side of a patch."""


def pack(latents: torch.Tensor) -> torch.Tensor:
    """[rows, channels, h, w] -> [rows, h / 2 * w / 2, channels * 4]: a token holds (channel, y, x)."""
    split = latents.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
    return split.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Inverse of `pack`; `height` and `width` in patches."""
    split = tokens.unflatten(2, (-1, PATCH, PATCH)).unflatten(1, (height, width))
    return split.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def pack_channels_last(latents: torch.Tensor) -> torch.Tensor:
    """As `pack`, but a token holds (y, x, channel)."""
    split = latents.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
    return split.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpack_channels_last(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Inverse of `pack_channels_last`; `height` and `width` in patches."""
    split = tokens.unflatten(2, (PATCH, PATCH, -1)).unflatten(1, (height, width))
    return split.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention of [rows, tokens, heads, width] -> [rows, tokens, heads * width].

    Args:
        mask: bool, broadcast to [rows, heads, tokens, tokens]; True where a token may look.
    """
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def key_mask(mask: torch.Tensor) -> torch.Tensor:
    """Which tokens may be looked at, bool [rows, tokens], as a mask for `attend`.

    Tokens that may not be looked at still look themselves: a row of softmax with nothing in it would be NaN.
    """
    return mask[:, None, None, :]
