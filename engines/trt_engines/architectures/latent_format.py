"""The shape of latents."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from trt_engines.architectures.axis import ROWS, Axis, sides
from trt_engines.architectures.feed import Feed
from trt_engines.architectures.tensor import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentFormat:
    """The shape of the latents that a denoiser steps. Their scale and shift are inside the autoencoder's graphs."""

    channels: int
    pixels: int | Fraction  # along one side of a position; sides are rounded up to whole positions
    multiple: int = 1  # positions: sides are rounded up to it
    blank: tuple[float, ...] = ()
    """The latent of a grey picture (0 of -1..1), a value for each channel, where something asks for it."""

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Height and width."""
        return sides(self.pixels, self.multiple)

    def shape(self, width: int, height: int) -> tuple[int, int, int]:
        """[channels, height, width] of a picture's latent. Args: width, height: pixels."""
        rows, columns = self.axes
        return self.channels, rows.elements(height), columns.elements(width)

    def tensor(self, name: str, feed: Feed | None = None, *, channels: int | None = None) -> Tensor:
        """A network's input or output of this shape. Args: channels: another number of them."""
        return Tensor(name=name, shape=(ROWS, channels or self.channels, *self.axes), feed=feed)
