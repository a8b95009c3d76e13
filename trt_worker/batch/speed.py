"""How long a step takes by batch and rows, learned from steps; and how many rows are worth their latency."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable

FORGETTING = 0.85
"""Weight of a measurement against that of the next one."""

REMEMBERED = 16
"""Measurements of one row count that are kept; the oldest weighs less than a tenth of the newest."""

PRIOR_FIXED_SHARE = 0.25
"""Assumption for row counts that were never run: share of a single row's step that further rows do not pay again.

More than published gains allow (a quarter: AITemplate on an A100, 512 px, eight images: 1.37), so that larger batches
are tried once; then they are measured.
"""


class BatchSpeed:
    """Seconds of a step by key and rows: exponentially weighted medians, so that one slow step moves nothing."""

    def __init__(self) -> None:
        self._measured: dict[Hashable, dict[int, deque[float]]] = {}
        self._medians: dict[Hashable, dict[int, float]] = {}

    def measured(self, key: Hashable, rows: int, seconds: float) -> None:
        """Remember one step. Args: rows: >= 1 that shared it."""
        kept = self._measured.setdefault(key, {}).setdefault(rows, deque(maxlen=REMEMBERED))
        kept.append(seconds)
        self._medians.setdefault(key, {})[rows] = weighted_median(kept)

    def known(self, key: Hashable) -> bool:
        """Whether a step of this key was ever measured."""
        return key in self._medians

    def seconds(self, key: Hashable, rows: int) -> float:
        """Expected seconds of a step, from the nearest row count where this one never ran; 0: nothing is known."""
        medians = self._medians.get(key)
        if not medians:
            return 0.0
        if (known := medians.get(rows)) is not None:
            return known
        nearest = min(medians, key=lambda count: (abs(math.log(count / rows)), count))
        return medians[nearest] * _prior(rows) / _prior(nearest)


def weighted_median(values: deque[float]) -> float:
    """The median of values, oldest first, each weighing `FORGETTING` times the next one. Raises: ValueError: none."""
    weights = {index: FORGETTING ** (len(values) - 1 - index) for index in range(len(values))}
    half, passed = sum(weights.values()) / 2, 0.0
    for index in sorted(weights, key=values.__getitem__):
        passed += weights[index]
        if passed >= half:
            return values[index]
    raise ValueError("there is no median of nothing")


def worthwhile_rows(seconds: Callable[[int], float], most: int, *, least_gain: float) -> int:
    """How many rows a batch should have while more are waiting.

    Rows are added while seconds per row fall by more than `least_gain` per doubling; beyond that they would only make
    everybody in the batch wait longer. A row count that happens to be slow does not hide a faster one behind it.

    Args:
        seconds: of a step by rows.
        most: rows that fit, >= 1.
        least_gain: share of the seconds per row, 0..1.
    """
    best, per_row = 1, seconds(1)
    for rows in range(2, most + 1):
        candidate = seconds(rows) / rows
        if candidate < per_row * (1 - least_gain) ** math.log2(rows / best) or per_row == 0:
            best, per_row = rows, candidate
    return best


def _prior(rows: int) -> float:
    """Seconds of a step over those of one row, where nothing is measured."""
    return PRIOR_FIXED_SHARE + (1 - PRIOR_FIXED_SHARE) * rows
