"""What the grid transport has counted, and the snapshot others may look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from trt_worker.delivery import Receipt, Settlement


@dataclass(frozen=True, slots=True, kw_only=True)
class GridStats:
    """How it stands with the grid."""

    connected: int  # connections that are registered
    busy: int  # of them with a job
    settlements: Mapping[Settlement, int]  # jobs by how they were closed
    unacknowledged: int  # results that were never answered: most likely unpaid
    den: float
    reconnects: int
    withdrawn: Mapping[str, str]  # models that are not offered, and why
    ended: Mapping[str, str]  # connections that are over for good, and why


@dataclass(slots=True)
class Ledger:
    """Counts of one transport."""

    settlements: Counter[Settlement] = field(default_factory=Counter)
    den: float = 0.0
    reconnects: int = 0

    def settled(self, receipt: Receipt) -> None:
        """A job is closed."""
        self.settlements[receipt.settlement] += 1
        self.den += receipt.reward
