"""Rows of one size that share denoiser calls: a batch's tensors on a device, and the step that advances all of it.

Every row's state is a block of tensors (sample, anchor, history, outputs, noise); a stage of any sampler, with its
guidance and parameterisation, is one small matrix applied to that block, so rows of different samplers, steps and
guidance share both the engine call and the update.

A step is put into one stream and the host goes on: one upload of the step's coefficients, noise where a row draws any
(a kernel for what the device can draw itself, an upload for the rest), and then for every engine call its scaled rows,
the call itself, and one kernel that turns its outputs into every row's next registers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_engines.architectures.feed import Feed
from trt_engines.architectures.ports import Ports
from trt_engines.backend import Engine
from trt_engines.devices.device import Device, Event, Stream
from trt_engines.devices.memory import Buffer
from trt_engines.devices.staging import StagingRing
from trt_engines.kernels.catalogue import philox_normal, row_combine, row_scale
from trt_engines.kernels.kernel import KernelCall
from trt_worker.batch.admission import BatchKey
from trt_worker.denoise.program import NOISE, REGISTERS, TENSORS, X
from trt_worker.device.feeds import constant_inputs
from trt_worker.device.input_staging import Copy, InputStaging
from trt_worker.device.row import Evaluation, Row, evaluations_by_tokens
from trt_worker.device.step_coefficients import StepCoefficients, coefficient_bytes

STEPS_AHEAD = 3
"""Steps that the host may have put into the stream beyond what it knows to be done."""

HandOut = Callable[[Row, Buffer], None]
"""Takes a finished row's latent, float32 [channels, height, width]: whatever it does to it, it puts into the batch's
stream before it returns; after that the memory belongs to another row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """Engine rows of one context length, and all that goes to the stream for them."""

    engine: Engine
    first: int  # of its rows among the rows of all calls
    members: tuple[Evaluation, ...]
    inputs: tuple[Copy, ...]  # before every call, where the engine takes the length's rows in several; else they stay
    scale: KernelCall
    times: Copy
    outputs: Copy | None  # to those of the other calls; None: there is no other


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Marks:
    """Events of one step: around each of its engine calls, and where all rows have advanced."""

    calls: list[tuple[Event, Event]]
    end: Event


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One stage of a batch that was put into its stream. What it says is true until `STEPS_AHEAD` further steps."""

    rows: tuple[Row, ...]  # that took part
    _device: Device
    _calls: tuple[tuple[Event, Event], ...]
    _end: Event

    @property
    def done(self) -> bool:
        """Whether the device is through with it; never waits."""
        return self._device.done(self._end)

    def wait(self) -> None:
        """Hold the host until the device is through with it."""
        self._device.synchronize(self._end)

    def engine_seconds(self) -> float:
        """Seconds in the engine, on the device's clock, once it is done."""
        return sum(self._device.elapsed(began, ended) for began, ended in self._calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """What every step does until a row joins or leaves."""

    noise: KernelCall  # for steps in which a row draws what the device can draw
    calls: tuple[_Call, ...]
    members: tuple[Evaluation, ...]  # of all calls
    combine: KernelCall
    only: str | None  # the job whose rows take part; None: all do


def device_bytes(capacity: int, latent: tuple[int, int, int]) -> int:
    """Device memory that a batch takes at most. Args: see `StepBatch`."""
    row = int(np.prod(latent)) * 4
    return capacity * TENSORS * row + coefficient_bytes(capacity) + 2 * capacity * row


class StepBatch:
    """Up to `capacity` images of one model, backend and size, on one stream of a device.

    Args:
        latent: channels, height and width.
        ports: what its denoiser takes and gives.
        engine_for: denoiser for a context length in tokens and for so many engine rows, on `stream`; made once and kept
            by the caller as long as it is among `engines`. One that takes fewer rows is called several times.
    Raises: OutOfMemory: nothing stays allocated then.
    """

    def __init__(
        self,
        key: BatchKey,
        capacity: int,
        latent: tuple[int, int, int],
        ports: Ports,
        device: Device,
        stream: Stream,
        engine_for: Callable[[int, int], Engine],
    ) -> None:
        self.key = key
        self.capacity = capacity
        self.rows: list[Row] = []
        self._device = device
        self.stream = stream
        self._engine_for = engine_for
        self._size = int(np.prod(latent))
        self._sample, self._time = ports.fed(Feed.STATE).name, ports.fed(Feed.TIME).name
        (self._predicted,) = (tensor.name for tensor in ports.outputs)
        self._outputs: Buffer | None = None  # of several calls; most batches need one call only
        with ExitStack() as undo:
            self._state = device.allocate(capacity * TENSORS * self._bytes)
            undo.callback(device.free, self._state)
            self._coefficients = StepCoefficients(device, stream, capacity, self._size, STEPS_AHEAD)
            undo.callback(self._coefficients.free)
            self._starts = StagingRing(device, self._bytes, capacity)
            undo.pop_all()
        names = [tensor.name for tensor in constant_inputs(ports)]
        self._inputs = InputStaging(device, stream, 2 * capacity, names)
        self._layout: _Layout | None = None  # None: a row has joined or left, or an engine was closed
        self._engines: dict[int, Engine] = {}  # of the layout, or found for the next one so far; by context length
        self._marks = [_Marks(calls=[], end=device.create_event(f"step {turn} is done")) for turn in range(STEPS_AHEAD)]
        self._turn = 0

    @property
    def room(self) -> int:
        return self.capacity - len(self.rows)

    @property
    def value(self) -> np.dtype[Any]:
        """The type of the samples that its engines take; float32 while it has none."""
        if not self._engines:
            return np.dtype(np.float32)
        return next(iter(self._engines.values())).tensor(self._sample).dtype

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Engines that its rows need together; none while the membership has changed since the last step."""
        return tuple(self._engines.values())

    def forget(self, engine: Engine) -> None:
        """An engine was closed: if it held contexts of these rows, the next step asks for engines anew."""
        if engine in self.engines:
            self.release_engines()

    def release_engines(self) -> None:
        """Need no engine until the next step, which asks for engines anew."""
        self._layout = None
        self._engines = {}

    def join(self, row: Row) -> None:
        """Take a row in before the next step. Raises: ValueError: the batch is full."""
        if not self.room:
            raise ValueError(f"batch {self.key} is full")
        place = len(self.rows)
        staging = self._starts.next()
        self._device.view(staging, np.dtype(np.float32), (self._size,), write=True)[:] = row.start.reshape(-1)
        self._device.fill(self._row(place), 0, self.stream)
        self._device.copy(self._tensor(place, X), staging, self.stream)
        self._starts.sent(self.stream)
        self.rows.append(row)
        self.release_engines()

    def leave(self, job: str) -> None:
        """Drop all rows of a job."""
        for place in reversed([place for place, row in enumerate(self.rows) if row.job == job]):
            self._remove(place)

    def step(self, only: str | None = None) -> Step:
        """Put one stage of every row into the stream. Rows that it finishes are to be handed out before the next.

        Args: only: the job whose rows take part, while the others stay as they are; None: all.
        Raises: EngineFault: a call was refused; the batch's rows are to be given up. OutOfMemory: the same, but it may
            be tried again: the rows are as they were.
        """
        if self._layout is None or self._layout.only != only:
            self._layout = None
            self._layout = self._lay_out(only)
        layout, calls = self._layout, self._layout.calls
        marks = self._marks_of(len(calls))
        if self._coefficients.upload(self.rows, layout.members, lambda place: self._tensor(place, NOISE), only):
            self._device.launch(layout.noise, self.stream)
        for call, (began, ended) in zip(calls, marks.calls, strict=False):
            for copy in call.inputs:
                self._copy(copy)
            self._device.launch(call.scale, self.stream)
            self._copy(call.times)
            self._device.record(began, self.stream)
            call.engine.run(len(call.members))
            self._device.record(ended, self.stream)
            if call.outputs is not None:
                self._copy(call.outputs)
        self._device.launch(layout.combine, self.stream)
        rows = tuple(row for row in self.rows if only in {None, row.job})
        for row in rows:
            row.stage += 1
            row.shared_rows += len(rows)
        self._device.record(marks.end, self.stream)  # before latents leave: whose picture is back, its step is done
        self._turn = (self._turn + 1) % STEPS_AHEAD
        return Step(rows=rows, _device=self._device, _calls=tuple(marks.calls[: len(calls)]), _end=marks.end)

    def hand_out(self, take: HandOut) -> None:
        """Hand out the rows that the last step has finished, and drop them."""
        for place in range(len(self.rows) - 1, -1, -1):
            if self.rows[place].finished:
                take(self.rows[place], self._tensor(place, X))
                self._remove(place)

    def close(self) -> None:
        """Wait for the stream and give the memory back."""
        self._device.synchronize(self.stream)
        self._coefficients.free()
        self._starts.free()
        self._inputs.free()
        for buffer in (self._state, self._outputs):
            if buffer is not None:
                self._device.free(buffer)
        for marks in self._marks:
            for event in (marks.end, *(event for pair in marks.calls for event in pair)):
                self._device.free(event)

    def _marks_of(self, calls: int) -> _Marks:
        """Events of the step that is longest ago, for at least so many calls."""
        marks = self._marks[self._turn]
        while len(marks.calls) < calls:
            began, ended = (self._device.create_event(f"a call {what}", timed=True) for what in ("began", "ended"))
            marks.calls.append((began, ended))
        return marks

    def _lay_out(self, only: str | None) -> _Layout:
        """Group what images need of the network by context length, and upload what stays: once per membership."""
        groups = evaluations_by_tokens(self.rows, only)
        engines = self._engines
        for tokens, members in groups.items():  # one by one: what makes room for the next keeps those before
            engines[tokens] = self._engine_for(tokens, len(members))
        (value,) = {engine.tensor(self._predicted).dtype for engine in engines.values()}
        parts = [
            (tokens, tuple(members[start : start + engines[tokens].rows]))
            for tokens, members in groups.items()
            for start in range(0, len(members), engines[tokens].rows)
        ]
        together = self._together(value) if len(parts) > 1 else None
        self._inputs.free_kept()
        calls, first = [], 0
        for tokens, part in parts:
            engine, inputs = engines[tokens], tuple[Copy, ...]()
            if len(part) == len(groups[tokens]):
                self._inputs.upload(engine, tokens, part)
            else:
                inputs = self._inputs.keep(engine, part)
            calls.append(self._call(engine, first, part, inputs, together))
            first += len(part)
        outputs = (
            together.part(0, first * self._size * value.itemsize)
            if together
            else calls[0].engine.part(self._predicted, first)
        )
        count = len(self.rows)
        combine = row_combine(
            value,
            state=self._state.part(0, count * TENSORS * self._bytes),
            outputs=outputs,
            mix=self._coefficients.field("mix", count),
            conditional=self._coefficients.field("outputs", count),
            unconditional=self._coefficients.outputs_of_others(count),
            size=self._size,
            registers=REGISTERS,
            tensors=TENSORS,
        )
        noise = philox_normal(
            state=self._state.part(0, count * TENSORS * self._bytes),
            seed=self._coefficients.field("seed", count),
            call=self._coefficients.field("call", count),
            first=self._coefficients.field("first", count),
            size=self._size,
            tensor=NOISE,
            tensors=TENSORS,
        )
        rows = tuple(member for call in calls for member in call.members)
        return _Layout(noise=noise, calls=tuple(calls), members=rows, combine=combine, only=only)

    def _call(
        self,
        engine: Engine,
        first: int,
        members: tuple[Evaluation, ...],
        inputs: tuple[Copy, ...],
        together: Buffer | None,
    ) -> _Call:
        rows = len(members)
        scale = row_scale(
            engine.tensor(self._sample).dtype,
            sample=engine.part(self._sample, rows),
            state=self._state.part(0, len(self.rows) * TENSORS * self._bytes),
            place=self._coefficients.field("place", rows, first),
            scale=self._coefficients.field("scale", rows, first),
            size=self._size,
            tensors=TENSORS,
        )
        times = Copy(
            source=self._coefficients.field("timestep", rows, first), destination=engine.part(self._time, rows)
        )
        outputs = None
        if together is not None:
            output = engine.part(self._predicted, rows)
            outputs = Copy(source=output, destination=together.part(first * output.size // rows, output.size))
        return _Call(
            engine=engine,
            first=first,
            members=members,
            inputs=inputs,
            scale=scale,
            times=times,
            outputs=outputs,
        )

    def _together(self, value: np.dtype[Any]) -> Buffer:
        """Memory for the outputs of several calls, one after another."""
        if self._outputs is None:
            self._outputs = self._device.allocate(2 * self.capacity * self._size * value.itemsize)
        return self._outputs

    def _remove(self, place: int) -> None:
        """Take a row out; the last one moves into its place."""
        last = self.rows.pop()
        if place < len(self.rows):
            self.rows[place] = last
            self._device.copy(self._row(place), self._row(len(self.rows)), self.stream)
        self.release_engines()

    def _copy(self, copy: Copy) -> None:
        self._device.copy(copy.destination, copy.source, self.stream)

    @property
    def _bytes(self) -> int:
        """Of one tensor of a row."""
        return self._size * 4

    def _row(self, place: int) -> Buffer:
        return self._state.part(place * TENSORS * self._bytes, TENSORS * self._bytes)

    def _tensor(self, place: int, tensor: int) -> Buffer:
        return self._row(place).part(tensor * self._bytes, self._bytes)
