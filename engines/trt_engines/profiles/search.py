"""The profiles that lose least: greedy by gain, then exchanged one by one."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trt_engines.profiles.cost import UNCOVERED_LOSS, Budgets, NetworkCost, RowPadding, plan_file_bytes
from trt_engines.profiles.profile import Profile, Range
from trt_engines.profiles.shapes import Floats, Ints, Shapes, losses

EXHAUSTIVE = 24
"""Up to so many shapes in a box, each of them is tried as `opt`; beyond, quantiles of their work are."""

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)

ALIKE = 0.25
"""Octaves: shapes whose work differs by less are one for the choice of kernels; the most common one is `opt`."""

SHORTLIST = 200
"""Candidates, best first, that a chosen profile may be exchanged for."""

ROUNDS = 3
"""Passes of exchanges; it rarely takes a second one."""


@dataclass(frozen=True, slots=True, order=True)
class _Box:
    """An upper corner: nothing larger along any axis runs."""

    width: int
    height: int
    rows: int
    tokens: int


def search(shapes: Shapes, budgets: Budgets, cost: NetworkCost) -> tuple[Profile, ...]:
    """Profiles within the budgets that lose least, as far as found; none if none fits.

    Covering a box of a plane with boxes of bounded corner is set cover, so the search is greedy: what a profile saves
    only shrinks as others are added (a shape uses the best one), which bounds the greedy choice from below at 63 % of
    the best saving (Nemhauser, Wolsey, Fisher 1978). Exchanges close most of the rest. Deterministic: ties go to the
    smaller candidate.
    """
    most = _most_profiles(budgets, cost)
    room = budgets.vram_bytes - cost.resident_bytes
    candidates = list(_candidates(shapes, room, cost)) if most > 0 and room >= 0 else []
    if not candidates:
        return ()
    chosen, gains = _greedy(shapes, candidates, most, budgets.least_gain * float(shapes.useful.sum()), cost)
    shortlist = [candidates[i] for i in sorted(range(len(candidates)), key=lambda i: (-gains[i], i))[:SHORTLIST]]
    columns = [_lost(shapes, profile, cost) for profile in shortlist]
    for _ in range(ROUNDS):
        better = _exchanged(shapes, chosen, shortlist, columns, cost)
        if better == chosen:
            break
        chosen = better
    chosen += _rare(shapes, chosen, candidates, most - len(chosen), cost)
    return tuple(sorted(_tightened(shapes, chosen, cost)))


def _lost(shapes: Shapes, profile: Profile, cost: NetworkCost) -> Floats:
    """What each shape loses with a profile, or on the fallback where that does not cover it."""
    return np.minimum(losses(shapes, profile, cost).total, UNCOVERED_LOSS * shapes.useful)


def _most_profiles(budgets: Budgets, cost: NetworkCost) -> int:
    count = budgets.profiles
    while count > 0 and plan_file_bytes(cost.weight_bytes, count) > budgets.disk_bytes:
        count -= 1
    return count


def _greedy(
    shapes: Shapes, candidates: Sequence[Profile], most: int, threshold: float, cost: NetworkCost
) -> tuple[list[Profile], list[float]]:
    """Profiles in the order in which they were chosen, and what each candidate would save alone."""
    alone = UNCOVERED_LOSS * shapes.useful
    current = alone.copy()
    gains = [_gain(current, losses(shapes, profile, cost).total) for profile in candidates]
    queue = [(-gain, index) for index, gain in enumerate(gains)]
    heapq.heapify(queue)
    chosen: list[Profile] = []
    while queue and len(chosen) < most:
        _, index = heapq.heappop(queue)
        total = losses(shapes, candidates[index], cost).total
        gain = _gain(current, total)
        if queue and -queue[0][0] > gain:  # others may be better now: what it saved has shrunk
            heapq.heappush(queue, (-gain, index))
            continue
        if gain <= threshold:
            break
        chosen.append(candidates[index])
        current = np.minimum(current, total)
    return chosen, gains


def _rare(
    shapes: Shapes, chosen: Sequence[Profile], candidates: Sequence[Profile], most: int, cost: NetworkCost
) -> list[Profile]:
    """Up to `most` further profiles for shapes that nothing chosen covers: rare ones save little and are served too."""
    served = np.zeros(len(shapes), np.bool_)
    for profile in chosen:
        served |= losses(shapes, profile, cost).covered
    further: list[Profile] = []
    while len(further) < most and not served.all():
        new = [float(shapes.jobs[losses(shapes, profile, cost).covered & ~served].sum()) for profile in candidates]
        index = max(range(len(new)), key=lambda i: (new[i], -i))
        if new[index] <= 0:
            break
        further.append(candidates[index])
        served |= losses(shapes, candidates[index], cost).covered
    return further


def _gain(current: Floats, total: Floats) -> float:
    return float(np.maximum(current - total, 0.0).sum())


def _exchanged(
    shapes: Shapes, chosen: list[Profile], shortlist: list[Profile], columns: list[Floats], cost: NetworkCost
) -> list[Profile]:
    """The same number of profiles after every exchange that helps has been made, one place after the other."""
    mine = [_lost(shapes, profile, cost) for profile in chosen]
    chosen = list(chosen)
    for place in range(len(chosen)):
        others = UNCOVERED_LOSS * shapes.useful
        for index, column in enumerate(mine):
            if index != place:
                others = np.minimum(others, column)
        best, least = None, float(np.minimum(others, mine[place]).sum()) * (1 - 1e-9)
        for index, column in enumerate(columns):
            lost = float(np.minimum(others, column).sum())
            if lost < least:
                best, least = index, lost
        if best is not None:
            chosen[place], mine[place] = shortlist[best], columns[best]
    return chosen


def _tightened(shapes: Shapes, chosen: Sequence[Profile], cost: NetworkCost) -> Iterator[Profile]:
    """Profiles shrunk to what they serve, so that their contexts reserve no more than is used; idle ones go."""
    table = np.array([losses(shapes, profile, cost).total for profile in chosen])
    owner = np.argmin(table, axis=0)
    for place, profile in enumerate(chosen):
        mine = (owner == place) & np.isfinite(table[place])
        if not mine.any():
            continue
        calls = -(-shapes.rows[mine] // profile.rows.max)
        rows = profile.rows.max if cost.row_padding is RowPadding.FULL else int((-(-shapes.rows[mine] // calls)).max())
        yield replace(
            profile,
            width=_shrunk(profile.width, shapes.width[mine]),
            height=_shrunk(profile.height, shapes.height[mine]),
            tokens=_shrunk(profile.tokens, shapes.tokens[mine]),
            rows=replace(profile.rows, max=max(profile.rows.opt, rows)),
        )


def _shrunk(extent: Range, served: Ints) -> Range:
    return replace(extent, max=max(extent.opt, int(served.max())))


def _candidates(shapes: Shapes, room: int, cost: NetworkCost) -> Iterator[Profile]:
    """Every box that may matter, each with every `opt` that may matter, smaller boxes first."""
    least = (int(shapes.width.min()), int(shapes.height.min()), int(shapes.tokens.min()))
    seen: set[Profile] = set()
    for box in sorted(_boxes(shapes, room, cost)):
        inside = np.flatnonzero(
            (shapes.width <= box.width) & (shapes.height <= box.height) & (shapes.tokens <= box.tokens)
        )
        if not inside.size:
            continue
        for best in _opts(shapes, inside, box.rows, cost):
            calls = -(-int(shapes.rows[best]) // box.rows)
            rows = -(-int(shapes.rows[best]) // calls)
            full = cost.row_padding is RowPadding.FULL
            profile = Profile(
                width=Range(min=least[0], opt=int(shapes.width[best]), max=box.width),
                height=Range(min=least[1], opt=int(shapes.height[best]), max=box.height),
                rows=Range(min=box.rows if full else 1, opt=box.rows if full else rows, max=box.rows),
                tokens=Range(min=least[2], opt=int(shapes.tokens[best]), max=box.tokens),
            )
            if profile not in seen:
                seen.add(profile)
                yield profile


def _boxes(shapes: Shapes, room: int, cost: NetworkCost) -> set[_Box]:
    """For each number of rows, length of text and width, the greatest height that the memory allows.

    A box inside another one with the same rows and tokens serves less and is left out.
    """
    widths = [int(width) for width in np.unique(shapes.width)]
    heights = [int(height) for height in np.unique(shapes.height)]
    splits = {-(-int(rows) // calls) for rows in np.unique(shapes.rows) for calls in range(1, int(rows) + 1)}
    boxes: set[_Box] = set()
    for tokens in (int(length) for length in np.unique(shapes.tokens)):
        row_bytes = {
            width: [cost.activation_bytes(width=width, height=height, tokens=tokens) for height in heights]
            for width in widths
        }
        for rows in splits:
            tallest = 0
            for width in reversed(widths):
                fitting = bisect_right(row_bytes[width], room / rows)
                if fitting and heights[fitting - 1] > tallest:
                    tallest = heights[fitting - 1]
                    boxes.add(_Box(width, tallest, rows, tokens))
    return boxes


def _opts(shapes: Shapes, inside: Ints, rows: int, cost: NetworkCost) -> list[int]:
    """Shapes of a box that its kernels may be chosen for: all of a few, or the heaviest and quantiles of the work."""
    if inside.size <= EXHAUSTIVE:
        return [int(index) for index in inside]
    asked = shapes.rows[inside]
    per_call = np.full_like(asked, rows) if cost.row_padding is RowPadding.FULL else -(-asked // -(-asked // rows))
    work, weight = per_call * shapes.row_flops[inside], shapes.useful[inside]
    order = np.argsort(work, kind="stable")
    reached = np.cumsum(weight[order]) / weight.sum()
    typical = (int(order[min(int(np.searchsorted(reached, q)), len(order) - 1)]) for q in QUANTILES)
    common = (int(np.argmax(np.where(np.abs(np.log2(work / work[place])) <= ALIKE, weight, 0.0))) for place in typical)
    return sorted(int(inside[place]) for place in {*common, int(np.argmax(weight))})
