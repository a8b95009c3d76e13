"""An image on its way, and what it needs of the network at a stage."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_engines.architectures.prompting import Lengths
from trt_worker.condition.encode import common_tokens, repeat_to
from trt_worker.denoise.noise import PhiloxDraw, StepNoise
from trt_worker.denoise.program import CONDITIONAL, FoldedProgram
from trt_worker.device.feeds import Inputs

_MOST_REPETITION = 4
"""Contexts are repeated to a common length while that costs no more than this; beyond, they take calls of their own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Half:
    """What one engine row of an image is given at every step: its prompt's, or its negative prompt's."""

    inputs: Inputs
    tokens: int  # length of what has a value for each text token


@dataclass(slots=True, kw_only=True)
class Row:
    """One image on its way through its sampler's program."""

    job: str
    index: int  # of the image in its job
    program: FoldedProgram
    start: NDArray[np.float32]  # [channels, height, width]: the noisy sample before the first stage
    noise: StepNoise
    positive: Half
    negative: Half | None  # None: no guidance by a second evaluation
    stage: int = 0  # that it is asked for next; the device may be some behind
    shared_rows: int = 0  # images in the same calls, summed over its stages
    _asked: tuple[int, PhiloxDraw | NDArray[np.float32] | None] = (-1, None)

    @property
    def halves(self) -> tuple[Half, ...]:
        """Its engine rows."""
        return (self.positive,) if self.negative is None else (self.positive, self.negative)

    @property
    def context_lengths(self) -> frozenset[int]:
        """Tokens of its engine rows."""
        return frozenset(half.tokens for half in self.halves)

    def step_noise(self) -> PhiloxDraw | NDArray[np.float32] | None:
        """What its stage draws, see `StepNoise.ask`; a stage that is tried again draws the same."""
        if self._asked[0] != self.stage:
            self._asked = self.stage, self.noise.ask(self.program.noise[self.stage])
        return self._asked[1]

    @property
    def finished(self) -> bool:
        return self.stage == len(self.program.c_in)


def halves(
    positive: Inputs, negative: Inputs | None, *, along: Collection[str], lengths: Lengths, least: int
) -> tuple[Half, Half | None]:
    """The engine rows of an image, of one length where they may share a call.

    Args:
        along: inputs that have a value for each text token.
        lengths: whether prompts of other lengths share a call, and how.
        least: tokens of rows that have no such input.
    """
    first = _half(positive, along, least)
    if negative is None:
        return first, None
    second = _half(negative, along, least)
    tokens = common_tokens(first.tokens, second.tokens)
    if lengths is Lengths.REPEATED and tokens <= _MOST_REPETITION * min(first.tokens, second.tokens):
        return _repeated(first, along, tokens), _repeated(second, along, tokens)
    return first, second


def _half(inputs: Inputs, along: Collection[str], least: int) -> Half:
    return Half(inputs=inputs, tokens=max((len(inputs[name]) for name in along), default=least))


def _repeated(half: Half, along: Collection[str], tokens: int) -> Half:
    changed = {name: repeat_to(half.inputs[name], tokens) for name in along}
    return Half(inputs={**half.inputs, **changed}, tokens=tokens)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """One row of an engine call: half of what an image needs of the network at a stage."""

    place: int  # of the image in its batch
    column: int  # CONDITIONAL or UNCONDITIONAL
    inputs: Inputs


def evaluations_by_tokens(rows: Sequence[Row], only: str | None = None) -> dict[int, list[Evaluation]]:
    """What rows need of the network, by context length; conditional halves come first.

    Args:
        rows: of a batch, in the order of their places.
        only: the job whose rows are asked for; None: all.
    """
    by_tokens: dict[int, list[Evaluation]] = {}
    for number in range(2):
        for place, row in enumerate(rows):
            half = row.negative if number else row.positive
            if half is not None and only in {None, row.job}:
                one = Evaluation(place=place, column=CONDITIONAL + number, inputs=half.inputs)
                by_tokens.setdefault(half.tokens, []).append(one)
    return by_tokens
