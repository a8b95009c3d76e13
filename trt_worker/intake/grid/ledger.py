"""What the grid transport has counted, and the snapshot others may look at."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from trt_worker.delivery import Receipt, Settlement

_REMEMBERED = 4096
"""Jobs given back whose ids are kept: more than a grid gives one worker in the time that a customer waits."""


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
    _given_back: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def give_back(self, job_id: str) -> bool:
        """Note that a job goes to another worker. False: it did before, and came back."""
        if job_id in self._given_back:
            return False
        self._given_back[job_id] = None
        if len(self._given_back) > _REMEMBERED:
            self._given_back.popitem(last=False)
        return True

    def settled(self, receipt: Receipt) -> None:
        """A job is closed."""
        self.settlements[receipt.settlement] += 1
        self.den += receipt.reward
