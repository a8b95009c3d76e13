"""The last look at a picture before it can leave.

A picture that is black or broken costs the worker its standing, and a customer a job; both come from numerical
failures, not from prompts. This is also the place of the safety gate. There is none here: what it takes is a
classifier, and no weights of one ship with the worker; a gate that lets everything pass would be worse than none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLACK_LEVEL = 2
"""A picture is black when no channel of any pixel is above this (of 255): what clipped NaNs and zeroed latents give."""


class Verdict(StrEnum):
    """Whether a picture may leave."""

    OK = "ok"
    BLACK = "black"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A verdict and what led to it."""

    verdict: Verdict
    reason: str = ""  # one line for the operator; empty when the picture is fine

    @property
    def passed(self) -> bool:
        return self.verdict is Verdict.OK


def inspect_picture(pixels: NDArray[Any], *, width: int, height: int) -> Finding:
    """Judge one finished picture.

    Args:
        pixels: uint8 [height, width, 3] if all is well; anything else is what this is there to notice.
        width, height: size the job asked for, pixels.
    """
    if pixels.shape != (height, width, 3):
        return _broken(f"shape {list(pixels.shape)} instead of {[height, width, 3]}")
    if np.issubdtype(pixels.dtype, np.inexact):
        bad = pixels.size - int(np.isfinite(pixels).sum())
        if bad:
            return _broken(f"{bad} of {pixels.size} values are not finite")
    if pixels.dtype != np.uint8:
        return _broken(f"values are {pixels.dtype} instead of uint8")
    brightest = int(pixels.max())
    if brightest <= BLACK_LEVEL:
        return Finding(verdict=Verdict.BLACK, reason=f"no channel of any pixel is above {brightest} of 255")
    return Finding(verdict=Verdict.OK)


def _broken(reason: str) -> Finding:
    return Finding(verdict=Verdict.BROKEN, reason=reason)
