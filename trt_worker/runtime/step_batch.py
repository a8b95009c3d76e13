"""Rows of one size that share denoiser calls: the device's state of a batch, and the step that advances all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from trt_engines.backend import Engine
from trt_engines.errors import EngineFault
from trt_worker.batch.admission import BatchKey
from trt_worker.condition.encode import common_tokens, repeat_to
from trt_worker.denoise.noise import StepNoise
from trt_worker.denoise.program import CONDITIONAL, NOISE, REGISTERS, TENSORS, FoldedProgram, X

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
    stage: int = 0
    engine_seconds: float = 0.0
    shared_rows: int = 0  # images in the same calls, summed over its stages

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

    @property
    def finished(self) -> bool:
        return self.stage == len(self.program.c_in)

    @property
    def fraction(self) -> float:
        """Share of its stages that are done."""
        return self.stage / len(self.program.c_in)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step did."""

    finished: tuple[tuple[Row, NDArray[np.float32]], ...]  # rows that left, with their latents
    images: int
    engine_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """One row of an engine call: half of what an image needs of the network at a stage."""

    place: int  # of the image in its batch
    column: int  # CONDITIONAL or UNCONDITIONAL
    context: NDArray[np.float32]  # [tokens, features]


def evaluations_by_tokens(rows: Sequence[Row]) -> dict[int, list[Evaluation]]:
    """What rows need of the network, by context length; conditional halves come first."""
    by_tokens: dict[int, list[Evaluation]] = {}
    for half in range(2):
        for place, row in enumerate(rows):
            context = row.negative if half else row.positive
            if context is not None:
                one = Evaluation(place=place, column=CONDITIONAL + half, context=context)
                by_tokens.setdefault(len(context), []).append(one)
    return by_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """Engine rows of one context length: which place each belongs to, and whether it is the unconditional half."""

    engine: Engine
    places: NDArray[np.intp]
    columns: NDArray[np.intp]


class StepBatch:
    """Up to `room` images of one model, backend and size.

    Every row's state is a block of tensors (sample, anchor, history, outputs, noise); a stage of any sampler, with its
    guidance and parameterisation, is one small matrix applied to that block, so rows of different samplers, steps and
    guidance share both the engine call and the update.

    Args:
        engine_for: denoiser engine for a context length in tokens; engines are made once and kept by the caller.
    """

    def __init__(
        self, key: BatchKey, capacity: int, latent: tuple[int, int, int], engine_for: Callable[[int], Engine]
    ) -> None:
        self.key = key
        self.capacity = capacity
        self.rows: list[Row] = []
        self._engine_for = engine_for
        self._latent = latent
        size = int(np.prod(latent))
        self._state = np.zeros((capacity, TENSORS, size), np.float32)
        self._update = np.empty((capacity, REGISTERS, size), np.float32)
        self._mix = np.empty((capacity, REGISTERS, TENSORS), np.float32)
        self._calls: tuple[_Call, ...] = ()

    @property
    def room(self) -> int:
        return self.capacity - len(self.rows)

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Engines that hold its rows' contexts; none while the membership has changed since the last step."""
        return tuple(call.engine for call in self._calls)

    def forget(self, engine: Engine) -> None:
        """An engine was closed: if it held contexts of these rows, the next step asks for engines anew."""
        if engine in self.engines:
            self._calls = ()

    def join(self, row: Row) -> None:
        """Take a row in before the next step. Raises: ValueError: the batch is full."""
        if not self.room:
            raise ValueError(f"batch {self.key} is full")
        place = len(self.rows)
        self._state[place] = 0.0
        self._state[place, X] = row.start.reshape(-1)
        self.rows.append(row)
        self._calls = ()

    def leave(self, job: str) -> None:
        """Drop all rows of a job."""
        for place in reversed([place for place, row in enumerate(self.rows) if row.job == job]):
            self._remove(place)

    def step(self) -> StepReport:
        """Advance every row by one stage.

        Raises: EngineFault: the engine failed; the batch is unchanged and its rows are to be given up.
        """
        began = perf_counter()
        if not self._calls:
            self._lay_out()
        count = len(self.rows)
        engine_seconds = sum(self._evaluate(call) for call in self._calls)
        for place, row in enumerate(self.rows):
            self._mix[place] = row.program.mix[row.stage]
            if (drawn := row.noise.draw(row.program.noise[row.stage])) is not None:
                self._state[place, NOISE] = drawn.reshape(-1)
        np.matmul(self._mix[:count], self._state[:count], out=self._update[:count])
        self._state[:count, :REGISTERS] = self._update[:count]
        finished = []
        for place in range(count - 1, -1, -1):
            row = self.rows[place]
            row.stage += 1
            row.engine_seconds += engine_seconds / count
            row.shared_rows += count
            if row.finished:
                finished.append((row, self._state[place, X].reshape(self._latent).copy()))
                self._remove(place)
        seconds = perf_counter() - began
        return StepReport(finished=tuple(finished), images=count, engine_seconds=engine_seconds, seconds=seconds)

    def _evaluate(self, call: _Call) -> float:
        """One engine call: scaled samples in, network outputs into the rows' state. Returns seconds in the engine."""
        engine, rows = call.engine, len(call.places)
        sample, timestep = engine.inputs["sample"], engine.inputs["timestep"]
        for position, place in enumerate(call.places):
            row = self.rows[place]
            np.multiply(self._state[place, X].reshape(self._latent), row.program.c_in[row.stage], out=sample[position])
            timestep[position] = row.program.timestep[row.stage]
        began = perf_counter()
        engine.run(rows)
        seconds = perf_counter() - began
        (output,) = engine.outputs.values()
        self._state[call.places, call.columns] = output[:rows].reshape(rows, -1)
        return seconds

    def _lay_out(self) -> None:
        """Group the engine rows of all images by context length and write their contexts, once per membership."""
        calls = []
        for tokens, members in evaluations_by_tokens(self.rows).items():
            engine = self._engine_for(tokens)
            if len(members) > engine.spec.bucket.rows:
                raise EngineFault(f"{engine.spec.label}: {len(members)} rows do not fit")
            for position, member in enumerate(members):
                engine.inputs["context"][position] = member.context
            places = np.array([member.place for member in members])
            columns = np.array([member.column for member in members])
            calls.append(_Call(engine=engine, places=places, columns=columns))
        self._calls = tuple(calls)

    def _remove(self, place: int) -> None:
        """Take a row out; the last one moves into its place."""
        last = self.rows.pop()
        if place < len(self.rows):
            self.rows[place] = last
            self._state[place] = self._state[len(self.rows)]
        self._calls = ()
