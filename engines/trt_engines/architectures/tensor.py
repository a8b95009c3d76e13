"""One input or output of a network."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trt_engines.architectures.axis import Axis, Quantity, Sizes
from trt_engines.architectures.feed import Feed


class Kind(StrEnum):
    """What a tensor's values are; a build chooses the type of the real ones."""

    REAL = "real"  # the network's compute type: float32, float16 or bfloat16
    FLOAT32 = "float32"  # float32 at any precision: timesteps, time ids
    INT64 = "int64"
    BOOL = "bool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output by name; `shape` mixes fixed sizes and dynamic axes, one of which are the rows."""

    name: str
    shape: tuple[int | Axis, ...]
    kind: Kind = Kind.REAL
    feed: Feed | None = None  # of an input; an output has none

    def at(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape in a bucket: pixels, rows and tokens to elements."""
        return tuple(part.elements(sizes[part.quantity]) if isinstance(part, Axis) else part for part in self.shape)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Its dynamic axes."""
        return tuple(part for part in self.shape if isinstance(part, Axis))

    @property
    def row_axis(self) -> int:
        """The place of the rows in its shape."""
        return next(
            place for place, part in enumerate(self.shape) if isinstance(part, Axis) and part.quantity is Quantity.ROWS
        )
