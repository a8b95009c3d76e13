"""A histogram as one network sees it: distinct padded shapes, and what each loses under a profile."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from trt_engines.bucket import Bucket
from trt_engines.profiles.cost import (
    OFF_OPT_LOSS_MOST,
    OFF_OPT_LOSS_PER_OCTAVE,
    SPLIT_LOSS_PER_HALVING,
    UNCOVERED_LOSS,
    NetworkCost,
    RowPadding,
)
from trt_engines.profiles.histogram import Demand, Histogram
from trt_engines.profiles.profile import Profile

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class _Sizes(TypedDict):
    width: int
    height: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shapes:
    """Distinct shapes after padding, as columns of one length; index i is the same shape in each of them."""

    width: Ints  # pixels
    height: Ints  # pixels
    rows: Ints
    tokens: Ints
    jobs: Floats  # share of jobs
    useful: Floats  # FLOPs asked for, times the share of jobs
    row_flops: Floats  # FLOPs of one padded row
    row_bytes: Floats  # activations of one padded row

    def __len__(self) -> int:
        return len(self.width)

    @property
    def row_work(self) -> Floats:
        """FLOPs of one padded row times the share of jobs."""
        return self.row_flops * self.jobs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Losses:
    """What the shapes lose under one profile, each column FLOPs times the share of jobs."""

    inside: NDArray[np.bool_]  # it can run there
    covered: NDArray[np.bool_]  # and loses no more there than on the fallback
    calls: Ints  # that one job's rows are split into
    padding: Floats  # run but not asked for
    slower: Floats  # time of kernels chosen for another size and of split batches, in FLOPs

    @property
    def total(self) -> Floats:
        """Padding and slowness; where the profile does not cover, infinite."""
        return np.where(self.covered, self.padding + self.slower, np.inf)


def padded(demand: Demand, cost: NetworkCost) -> tuple[int, int, int, int]:
    """Width, height, rows and tokens that a network runs for a demand; an axis that it does not see is 1."""
    return (
        _up(demand.width, cost.size_multiple) if cost.sees_size else 1,
        _up(demand.height, cost.size_multiple) if cost.sees_size else 1,
        demand.rows,
        _up(demand.tokens, cost.token_multiple) if cost.sees_tokens else 1,
    )


def see(histogram: Histogram, cost: NetworkCost) -> tuple[Shapes, tuple[int, ...]]:
    """The shapes that a network sees, and for each demand the index of its shape."""
    jobs: defaultdict[tuple[int, int, int, int], float] = defaultdict(float)
    useful: defaultdict[tuple[int, int, int, int], float] = defaultdict(float)
    for demand in histogram.demands:
        shape = padded(demand, cost)
        jobs[shape] += demand.weight
        asked = Bucket(width=demand.width, height=demand.height, rows=demand.rows, tokens=demand.tokens)
        flops = cost.flops(**_seen(asked, cost))
        useful[shape] += demand.weight * demand.rows * flops
    order = sorted(jobs)
    place = {shape: index for index, shape in enumerate(order)}
    columns = np.array(order, np.int64).reshape(-1, 4).T
    shapes = Shapes(
        width=columns[0],
        height=columns[1],
        rows=columns[2],
        tokens=columns[3],
        jobs=np.array([jobs[shape] for shape in order]),
        useful=np.array([useful[shape] for shape in order]),
        row_flops=np.array([cost.flops(width=w, height=h, tokens=t) for w, h, _, t in order]),
        row_bytes=np.array([cost.activation_bytes(width=w, height=h, tokens=t) for w, h, _, t in order]),
    )
    return shapes, tuple(place[padded(demand, cost)] for demand in histogram.demands)


def losses(shapes: Shapes, profile: Profile, cost: NetworkCost) -> Losses:
    """What every shape loses under a profile.

    Rows are split over as many calls as the profile needs. Widths and heights run as they are; tokens and rows may
    run padded. A shape that would lose more than on the fallback counts as not covered.
    """
    inside = np.ones(len(shapes), np.bool_)
    if cost.sees_size:
        inside &= (shapes.width >= profile.width.min) & (shapes.width <= profile.width.max)
        inside &= (shapes.height >= profile.height.min) & (shapes.height <= profile.height.max)
    if cost.sees_tokens:
        inside &= (shapes.tokens >= profile.tokens.min) & (shapes.tokens <= profile.tokens.max)
    calls = -(-shapes.rows // profile.rows.max)
    if cost.row_padding is RowPadding.FULL:
        per_call = np.full_like(shapes.rows, profile.rows.max)
        rows_run = calls * profile.rows.max
    else:
        per_call = np.maximum(-(-shapes.rows // calls), profile.rows.min)
        rows_run = np.maximum(shapes.rows, calls * profile.rows.min)
    run = rows_run * shapes.row_work
    off = OFF_OPT_LOSS_PER_OCTAVE * np.abs(np.log2(per_call * shapes.row_flops / opt_work(profile, cost)))
    slower = run * (np.minimum(off, OFF_OPT_LOSS_MOST) + SPLIT_LOSS_PER_HALVING * np.log2(calls))
    padding = np.maximum(run - shapes.useful, 0.0)  # rounding may leave a shade below zero
    return Losses(
        inside=inside,
        covered=inside & (padding + slower <= UNCOVERED_LOSS * shapes.useful),
        calls=calls,
        padding=padding,
        slower=slower,
    )


def opt_work(profile: Profile, cost: NetworkCost) -> float:
    """FLOPs of one call in the shapes that a profile's kernels are chosen for."""
    return profile.rows.opt * cost.flops(**_seen(profile.best, cost))


def context_bytes(profile: Profile, cost: NetworkCost) -> int:
    """Activations that an execution context reserves: the largest shape of its profile."""
    return math.ceil(profile.rows.max * cost.activation_bytes(**_seen(profile.largest, cost)))


def _seen(bucket: Bucket, cost: NetworkCost) -> _Sizes:
    return _Sizes(
        width=bucket.width if cost.sees_size else 1,
        height=bucket.height if cost.sees_size else 1,
        tokens=bucket.tokens if cost.sees_tokens else 1,
    )


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
