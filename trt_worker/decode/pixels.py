"""What a VAE decoder gives, as the bytes of a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK_VALUES = 1 << 15
"""Values converted at a time: 128 KiB of float32 stay in a core's second-level cache from first to last operation."""


class PixelConverter:
    """Turns decoded images into pixels, with scratch memory of its own that is made once.

    Not for several threads at once.
    """

    def __init__(self) -> None:
        self._scratch = np.empty(BLOCK_VALUES, np.float32)

    def to_pixels(self, decoded: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
        """Write trunc(clip(255 * (x / 2 + 0.5), 0, 255)) of every value.

        The operations and their order are those of ComfyUI in float32, so that the same decoded image gives the same
        bytes; rounding instead would change half of all values by one.

        Args:
            decoded: float32 [rows, 3, height, width], -1..1 with some overshoot; finite, see `rows_not_finite`.
            out: uint8 [rows, height, width, 3], written.
        """
        rows, channels, height, width = decoded.shape
        if out.shape != (rows, height, width, channels):
            raise ValueError(f"pixels of {list(decoded.shape)} do not go into an array of {list(out.shape)}")
        if width > self._scratch.size:
            self._scratch = np.empty(width, np.float32)
        lines = self._scratch.size // width
        for row in range(rows):
            for top in range(0, height, lines):
                for channel in range(channels):
                    block = decoded[row, channel, top : top + lines]
                    scratch = self._scratch[: block.size].reshape(block.shape)
                    np.multiply(block, np.float32(0.5), out=scratch)
                    np.add(scratch, np.float32(0.5), out=scratch)
                    np.multiply(scratch, np.float32(255), out=scratch)
                    np.clip(scratch, np.float32(0), np.float32(255), out=scratch)
                    out[row, top : top + lines, :, channel] = scratch  # the cast truncates


def rows_not_finite(values: NDArray[np.float32]) -> tuple[int, ...]:
    """Rows (first axis) that hold a NaN or an infinity."""
    return tuple(number for number, row in enumerate(values) if not np.isfinite(row).all())
