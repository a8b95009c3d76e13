"""The axes of a network's tensors whose sizes a bucket decides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from trt_engines.bucket import Bucket


class Quantity(StrEnum):
    """What a dynamic axis follows when a bucket is chosen."""

    ROWS = "rows"
    WIDTH = "width"  # pixels
    HEIGHT = "height"  # pixels
    TOKENS = "tokens"  # text tokens of a row


Sizes = Mapping[Quantity, int]
"""The size of every quantity, in pixels, rows and tokens."""


def sizes_of(bucket: Bucket) -> dict[Quantity, int]:
    """The sizes that a bucket stands for."""
    return {
        Quantity.ROWS: bucket.rows,
        Quantity.WIDTH: bucket.width,
        Quantity.HEIGHT: bucket.height,
        Quantity.TOKENS: bucket.tokens,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A named dynamic axis: its size in a bucket is `quantity / unit`, rounded up to a multiple of `multiple`."""

    name: str
    quantity: Quantity
    unit: int | Fraction = 1  # pixels (or tokens) per element
    multiple: int = 1  # in elements: what the network's own down-sampling or packing asks for
    least: int = 1  # elements: the network does not take fewer

    def elements(self, size: int) -> int:
        """Its size in a bucket. Args: size: the bucket's, in pixels, rows or tokens."""
        return self.multiple * math.ceil(Fraction(size) / (self.unit * self.multiple))

    @property
    def step(self) -> int:
        """What sizes must be multiples of; 1 where an element is no whole number of pixels, so that all are rounded."""
        step = Fraction(self.unit) * self.multiple
        return step.numerator if step.denominator == 1 else 1


ROWS = Axis(name="rows", quantity=Quantity.ROWS)
TOKENS = Axis(name="tokens", quantity=Quantity.TOKENS)


def sides(unit: int | Fraction, multiple: int = 1, *, prefix: str = "") -> tuple[Axis, Axis]:
    """Height and width. Args: unit, multiple: as of `Axis`. prefix: of their names."""
    return (
        Axis(name=f"{prefix}height", quantity=Quantity.HEIGHT, unit=unit, multiple=multiple),
        Axis(name=f"{prefix}width", quantity=Quantity.WIDTH, unit=unit, multiple=multiple),
    )
