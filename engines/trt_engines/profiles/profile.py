"""The range of shapes that one optimisation profile of an engine serves."""

from __future__ import annotations

from dataclasses import dataclass

from trt_engines.bucket import Bucket


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Range:
    """Sizes along one axis: anything from `min` to `max` runs, `opt` is what kernels are chosen for."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(
                f"a range needs 1 <= min <= opt <= max, and this one is {self.min}, {self.opt}, {self.max}"
            )

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max

    @property
    def label(self) -> str:
        """As in `256-1024`, or `512` when there is only one size."""
        return f"{self.min}" if self.min == self.max else f"{self.min}-{self.max}"


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Profile:
    """One optimisation profile in the units of a bucket, so that it reads the same for every network of a model.

    A network that does not see an axis (a VAE has no text tokens) is built without it; the range then says which
    buckets the profile serves all the same.
    """

    width: Range  # pixels
    height: Range  # pixels
    rows: Range  # of one call
    tokens: Range  # text tokens of a row

    def covers(self, bucket: Bucket) -> bool:
        """Whether every shape of the bucket, at its full rows, lies inside."""
        return (
            bucket.width in self.width
            and bucket.height in self.height
            and bucket.rows in self.rows
            and bucket.tokens in self.tokens
        )

    @property
    def smallest(self) -> Bucket:
        """The shapes at the lower end of every range."""
        return Bucket(width=self.width.min, height=self.height.min, rows=self.rows.min, tokens=self.tokens.min)

    @property
    def best(self) -> Bucket:
        """The shapes that kernels are chosen for."""
        return Bucket(width=self.width.opt, height=self.height.opt, rows=self.rows.opt, tokens=self.tokens.opt)

    @property
    def largest(self) -> Bucket:
        """The shapes at the upper end of every range: what a context reserves memory for."""
        return Bucket(width=self.width.max, height=self.height.max, rows=self.rows.max, tokens=self.tokens.max)

    @property
    def label(self) -> str:
        """Short name, as in `256-1024x256-1024r1-8t77-231`."""
        return f"{self.width.label}x{self.height.label}r{self.rows.label}t{self.tokens.label}"
