"""What the connections of a grid remember together. Jobs are counted elsewhere, with all others."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

_REMEMBERED = 4096
"""Jobs given back whose ids are kept: more than a grid gives one worker in the time that a customer waits."""


@dataclass(slots=True)
class Ledger:
    """The memory of one transport."""

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
