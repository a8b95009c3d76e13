"""The shapes an engine is made for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Bucket:
    """Rows of one size that share an engine call.

    `width` and `height` are in pixels even where the network sees latents, so that one job has one bucket through
    all of its networks.
    """

    width: int
    height: int
    rows: int  # most rows of one call
    tokens: int = 77  # text tokens of a row, a multiple of 77 for CLIP models

    @property
    def label(self) -> str:
        """Short name, as in `256x256r8t77`."""
        return f"{self.width}x{self.height}r{self.rows}t{self.tokens}"
