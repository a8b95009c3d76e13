"""What a build is told, but for the models."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_export.building.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a build is told, but for the models."""

    targets: tuple[Target, ...]
    library: str | None  # that builds; None: the preferred one of each card
    refittable: bool
    components: tuple[str, ...]  # to build; all without any
    histogram: Path | None  # of jobs; None: the architecture's default
    profiles: int  # most of one engine
    disk_bytes: int | None  # for the engines of a model; None: all that is free
    family: str | None  # architecture of the checkpoints; None: what their files say

    def document(self) -> dict[str, Any]:
        """As plain values, with the histogram by its content. Raises: OSError: it cannot be read."""
        tally = hashlib.sha256(self.histogram.read_bytes()).hexdigest() if self.histogram else None
        return {
            "targets": [[one.name, one.sm, one.memory_bytes, one.tensor_cores] for one in self.targets],
            "library": self.library,
            "refittable": self.refittable,
            "components": sorted(self.components),
            "histogram": tally,
            "profiles": self.profiles,
            "disk_bytes": self.disk_bytes,
            "family": self.family,
        }
