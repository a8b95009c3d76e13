"""What a network costs in a bucket, and what is lost when a profile does not fit a job exactly."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

OFF_OPT_LOSS_PER_OCTAVE = 0.03
"""Estimate, not a measurement: share of a call's time lost for every doubling between its work and the work at `opt`.

The builder picks the kernels that are fastest at `opt` and merely valid elsewhere (documentation of
IOptimizationProfile), and what decides a kernel is above all the size of its matrices: rows times positions.
"""

OFF_OPT_LOSS_MOST = 0.15
"""Estimate: the most that kernels picked for another size lose, however far away."""

SPLIT_LOSS_PER_HALVING = 0.05
"""Share of the work lost each time a batch is cut in half because a profile has fewer rows.

Between two published gains: eight images at 512 px run 1.37 times as fast as one at a time on an A100 (AITemplate's
Stable Diffusion example: 11 % a halving), two at 1024 px 1.02 times on an H200 (sglang, pull request 22183: 2 %).
"""

UNCOVERED_LOSS = 1.0
"""Extra work of a job that no profile serves, as a share of its own: it runs on the PyTorch fallback instead.

PyTorch without compilation reaches about half the rate of a compiled engine (published Stable Diffusion 1.5 on an
RTX 3090: 21.3 against 46.3 steps a second; on an RTX 4090: 38.3 against 91.0).
"""


class RowPadding(StrEnum):
    """How a call with fewer rows than its profile allows is run."""

    EXACT = "exact"  # with its own rows: the axis is dynamic
    FULL = "full"  # always with all rows of the profile, so that a picture does not depend on its company


class RowCost(Protocol):
    """A cost of one row by its shape."""

    def __call__(self, *, width: int, height: int, tokens: int) -> float:
        """The cost. Args: width, height: pixels. tokens: text tokens. It never falls when one of them grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCost:
    """What the planner must know about one network."""

    flops: RowCost
    activation_bytes: RowCost  # most that is alive at once, per row of a call
    weight_bytes: int  # in the plan file
    streamed_bytes: int = 0  # of the weights that stay in host memory
    sees_size: bool = True  # False: a text encoder
    sees_tokens: bool = True  # False: an image encoder or decoder
    size_multiple: int = 64  # pixels that widths and heights are rounded up to
    token_multiple: int = 1  # tokens that texts are padded up to
    row_padding: RowPadding = RowPadding.EXACT

    @property
    def resident_bytes(self) -> int:
        """Weights on the card."""
        return self.weight_bytes - self.streamed_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """What the engine of one network may take."""

    vram_bytes: int  # weights on the card and the activations of the largest context
    disk_bytes: int  # the plan file
    profiles: int = 6  # most of one engine: each one is compiled by itself
    least_gain: float = 0.01  # share of all work that a further profile must save, unless it serves jobs nobody serves


PLAN_BYTES = 10_000_000
"""What a plan holds besides weights and profiles."""

PROFILE_BYTES = 20_000_000
"""What each profile adds to a plan.

Both from builds of the Stable Diffusion 1.5 UNet with TensorRT-RTX 1.7.1 (1,719 MB of float16 weights): 1,739 MB with
one static profile, 1,747 to 1,759 MB with a dynamic one, 1,802 MB with four static ones.
"""


def plan_file_bytes(weight_bytes: int, profiles: int) -> int:
    """Size of a plan file."""
    return weight_bytes + PLAN_BYTES + PROFILE_BYTES * profiles
