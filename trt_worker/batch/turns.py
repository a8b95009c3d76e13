"""Whose turn it is: device time shared evenly among models that have work, in turns long enough to pay for a switch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Device seconds that each model had, and who has them now.

    A model that comes back after a pause starts level with whoever had least meanwhile: a pause earns no credit.
    """

    served: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    current: str | None = None  # model of the latest step
    turn: float = 1.0  # seconds by which another model may fall behind before it gets the device
    switch_share: float = 0.2  # most of the device's time that loading engines may take

    def charged(self, model: str, seconds: float, active: Collection[str]) -> Turns:
        """After a step. Args: active: models that had work, `model` among them."""
        level = min((self.served[name] for name in active if name in self.served), default=0.0)
        served = {name: max(self.served.get(name, level), level) for name in active}
        served[model] += seconds
        return replace(self, served=served, current=model)

    def patience(self, switch_seconds: float) -> float:
        """Seconds of work that pay for a switch. Args: switch_seconds: of loading the engines; 0: they are resident."""
        return max(self.turn, switch_seconds / self.switch_share)

    def next(self, candidates: Mapping[str, float]) -> str:
        """The model that steps next: the current one, unless another has fallen behind by what pays for its switch.

        Args: candidates: models with work, not empty, and the seconds of switching to each.
        """
        level = min((self.served[name] for name in candidates if name in self.served), default=0.0)
        standing = {name: self.served.get(name, level) for name in candidates}
        current = self.current
        if current is None or current not in candidates:
            return min(candidates, key=lambda name: (standing[name] + candidates[name] / self.switch_share, name))
        behind = [
            name
            for name, switch_seconds in candidates.items()
            if standing[name] + self.patience(switch_seconds) < standing[current]
        ]
        return min(behind, key=lambda name: (standing[name], name), default=current)
