"""From a histogram of jobs and two budgets to the profiles of one engine, with what they will and won't do."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from trt_engines.profiles.cost import UNCOVERED_LOSS, Budgets, NetworkCost, plan_file_bytes
from trt_engines.profiles.histogram import Demand, Histogram
from trt_engines.profiles.profile import Profile, Range
from trt_engines.profiles.search import search
from trt_engines.profiles.shapes import Losses, Shapes, context_bytes, losses, see


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A demand that the engine serves."""

    demand: Demand
    profile: int  # index in the plan's profiles
    calls: int  # that one job's rows are split into; 1: whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncovered:
    """A demand that the fallback serves, and why."""

    demand: Demand
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePlan:
    """The profiles of one engine and what is expected of them; shares are from 0 to 1."""

    profiles: tuple[Profile, ...]
    served: tuple[Served, ...]
    uncovered: tuple[Uncovered, ...]
    covered_jobs: float  # share of jobs
    covered_work: float  # share of the FLOPs that jobs ask for
    padding: float  # share of what the engine runs that nobody asked for
    slower: float  # expected share of the engine's time lost to kernels chosen for other sizes and to split batches
    lost: float  # the objective: padding, slowness and the fallback's extra work, as a share of the FLOPs asked for
    activation_bytes: int  # of the largest context
    vram_bytes: int  # weights on the card and that context
    disk_bytes: int  # the plan file


def plan_profiles(histogram: Histogram, budgets: Budgets, cost: NetworkCost) -> ProfilePlan:
    """The profiles that lose least within the budgets, as far as found.

    They lose no more than one profile over the full range does, wherever that fits. Every demand is served or named
    with the reason. The result depends on nothing but the arguments.
    """
    shapes, _ = see(histogram, cost)
    return evaluate(search(shapes, budgets, cost), histogram, budgets, cost)


def evaluate(profiles: tuple[Profile, ...], histogram: Histogram, budgets: Budgets, cost: NetworkCost) -> ProfilePlan:
    """What given profiles do for a histogram; the budgets only explain what is left uncovered."""
    shapes, places = see(histogram, cost)
    alone = UNCOVERED_LOSS * shapes.useful
    each = [losses(shapes, profile, cost) for profile in profiles]
    table = np.array([*(one.total for one in each), np.full(len(shapes), np.inf)])
    owner = np.argmin(table, axis=0)
    covered = np.isfinite(table.min(axis=0))
    padding = _of_owner(each, owner, covered, "padding")
    slower = _of_owner(each, owner, covered, "slower")
    asked = float(shapes.useful.sum())
    engine = float(shapes.useful[covered].sum())
    run = engine + padding
    served = tuple(
        Served(demand=demand, profile=int(owner[place]), calls=int(each[owner[place]].calls[place]))
        for demand, place in zip(histogram.demands, places, strict=True)
        if covered[place]
    )
    uncovered = tuple(
        Uncovered(demand=demand, reason=_reason(shapes, place, each, budgets, cost))
        for demand, place in zip(histogram.demands, places, strict=True)
        if not covered[place]
    )
    activation = max((context_bytes(profile, cost) for profile in profiles), default=0)
    return ProfilePlan(
        profiles=tuple(_widened(profile, histogram, cost) for profile in profiles),
        served=served,
        uncovered=uncovered,
        covered_jobs=float(shapes.jobs[covered].sum()) if not covered.all() else 1.0,
        covered_work=engine / asked if not covered.all() else 1.0,
        padding=padding / run if run else 0.0,
        slower=slower / (run + slower) if run else 0.0,
        lost=(padding + slower + float(alone[~covered].sum())) / asked,
        activation_bytes=activation,
        vram_bytes=cost.resident_bytes + activation if profiles else 0,
        disk_bytes=plan_file_bytes(cost.weight_bytes, len(profiles)) if profiles else 0,
    )


def _of_owner(
    each: list[Losses], owner: np.typing.NDArray[np.intp], covered: np.typing.NDArray[np.bool_], name: str
) -> float:
    return sum(float(getattr(one, name)[(owner == place) & covered].sum()) for place, one in enumerate(each))


def _reason(shapes: Shapes, place: int, each: list[Losses], budgets: Budgets, cost: NetworkCost) -> str:
    room = budgets.vram_bytes - cost.resident_bytes
    if room < 0:
        return (
            f"too large for this card: the weights take {_gb(cost.resident_bytes)}, {_gb(budgets.vram_bytes)} are there"
        )
    if shapes.row_bytes[place] > room:
        return (
            f"too large for this card: one row needs {_gb(shapes.row_bytes[place])} of activations, "
            f"{_gb(room)} are left"
        )
    if plan_file_bytes(cost.weight_bytes, 1) > budgets.disk_bytes:
        return (
            f"no disk for the engine: it takes {_gb(plan_file_bytes(cost.weight_bytes, 1))}, "
            f"{_gb(budgets.disk_bytes)} are there"
        )
    if any(one.inside[place] for one in each):
        return "in the profiles that fit it would run padded, at more than the cost of the fallback"
    return "left out: the profiles that the budgets allow save more elsewhere"


def _widened(profile: Profile, histogram: Histogram, cost: NetworkCost) -> Profile:
    """The profile with the histogram's whole range along each axis that the network does not see."""
    demands = histogram.demands
    if not cost.sees_size:
        widths, heights = [demand.width for demand in demands], [demand.height for demand in demands]
        profile = replace(profile, width=_whole(widths), height=_whole(heights))
    if not cost.sees_tokens:
        profile = replace(profile, tokens=_whole([demand.tokens for demand in demands]))
    return profile


def _whole(sizes: list[int]) -> Range:
    return Range(min=min(sizes), opt=max(sizes), max=max(sizes))


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
