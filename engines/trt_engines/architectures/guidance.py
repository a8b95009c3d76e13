"""How a job's guidance reaches a denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class GuidanceKind(StrEnum):
    """How a job's guidance reaches a denoiser."""

    CLASSIFIER_FREE = "classifier free"  # a second row for the negative prompt; guidance 1 goes without it
    EMBEDDED = "embedded"  # as an input of the network, which was distilled for it
    NONE = "none"  # not at all: the network was distilled for one guidance


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """How a job's guidance reaches a denoiser. A scale of 1 leaves the negative prompt out."""

    kind: GuidanceKind
    default: float = 1.0  # of a job that names none
    offset: float = 0.0  # what to add to the family's own published values, where they call "off" 0, for our scale

    def second_evaluation(self, scale: float) -> bool:
        """Whether a scale takes an evaluation of the negative prompt beside that of the prompt."""
        return self.kind is GuidanceKind.CLASSIFIER_FREE and scale != 1.0

    @property
    def rows(self) -> int:
        """Denoiser rows of one image at the default guidance."""
        return 2 if self.second_evaluation(self.default) else 1
