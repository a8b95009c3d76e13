"""An image on its way, and what it needs of the network at a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_worker.condition.encode import common_tokens, repeat_to
from trt_worker.denoise.noise import PhiloxDraw, StepNoise
from trt_worker.denoise.program import CONDITIONAL, FoldedProgram

_MOST_REPETITION = 4
"""Contexts are repeated to a common length while that costs no more than this; beyond, they take calls of their own."""


@dataclass(slots=True, kw_only=True)
class Row:
    """One image on its way through its sampler's program."""

    job: str
    index: int  # of the image in its job
    program: FoldedProgram
    start: NDArray[np.float32]  # [channels, height, width]: the noisy sample before the first stage
    noise: StepNoise
    positive: NDArray[np.float32]  # [tokens, features]
    negative: NDArray[np.float32] | None  # None: guidance 1, no second evaluation
    stage: int = 0  # that it is asked for next; the device may be some behind
    shared_rows: int = 0  # images in the same calls, summed over its stages
    _asked: tuple[int, PhiloxDraw | NDArray[np.float32] | None] = (-1, None)

    def __post_init__(self) -> None:
        if self.negative is None:
            return
        lengths = len(self.positive), len(self.negative)
        tokens = common_tokens(*lengths)
        if tokens <= _MOST_REPETITION * min(lengths):
            self.positive, self.negative = repeat_to(self.positive, tokens), repeat_to(self.negative, tokens)

    @property
    def context_lengths(self) -> frozenset[int]:
        """Tokens of its engine rows."""
        return frozenset(len(context) for context in (self.positive, self.negative) if context is not None)

    def step_noise(self) -> PhiloxDraw | NDArray[np.float32] | None:
        """What its stage draws, see `StepNoise.ask`; a stage that is tried again draws the same."""
        if self._asked[0] != self.stage:
            self._asked = self.stage, self.noise.ask(self.program.noise[self.stage])
        return self._asked[1]

    @property
    def finished(self) -> bool:
        return self.stage == len(self.program.c_in)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """One row of an engine call: half of what an image needs of the network at a stage."""

    place: int  # of the image in its batch
    column: int  # CONDITIONAL or UNCONDITIONAL
    context: NDArray[np.float32]  # [tokens, features]


def evaluations_by_tokens(rows: Sequence[Row], only: str | None = None) -> dict[int, list[Evaluation]]:
    """What rows need of the network, by context length; conditional halves come first.

    Args:
        rows: of a batch, in the order of their places.
        only: the job whose rows are asked for; None: all.
    """
    by_tokens: dict[int, list[Evaluation]] = {}
    for half in range(2):
        for place, row in enumerate(rows):
            context = row.negative if half else row.positive
            if context is not None and only in {None, row.job}:
                one = Evaluation(place=place, column=CONDITIONAL + half, context=context)
                by_tokens.setdefault(len(context), []).append(one)
    return by_tokens
