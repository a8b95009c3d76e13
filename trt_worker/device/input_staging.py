"""How inputs that stay the same get to the engines of a batch: through pinned memory, once per membership."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from trt_engines.backend import Engine
from trt_engines.devices.device import Device, Stream
from trt_engines.devices.memory import Buffer, Place, aligned
from trt_engines.devices.staging import StagingRing
from trt_worker.device.row import Evaluation

LENGTHS = 4
"""Lengths of prompts for whose inputs a batch keeps pinned memory: up to hundreds of MB for the longest ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy that goes to the stream."""

    source: Buffer
    destination: Buffer


class InputStaging:
    """Pinned memory for what the rows of one batch are given at every step.

    Args:
        most_rows: engine rows of the batch.
        names: inputs of the denoiser that stay the same, at least one.
    """

    def __init__(self, device: Device, stream: Stream, most_rows: int, names: Sequence[str]) -> None:
        self._device = device
        self._stream = stream
        self._most_rows = most_rows
        self._names = tuple(names)
        self._rings: dict[int, StagingRing] = {}  # by tokens, the latest used last
        self._kept: list[Buffer] = []  # of calls that upload theirs every time

    def upload(self, engine: Engine, tokens: int, members: Sequence[Evaluation]) -> None:
        """Put the inputs of all rows of a length into their engine, where they stay. Raises: OutOfMemory."""
        ring = self._rings.pop(tokens, None) or self._make_ring(engine)
        self._rings[tokens] = ring
        for copy in self._written(ring.next(), engine, members):
            self._device.copy(copy.destination, copy.source, self._stream)
        ring.sent(self._stream)

    def keep(self, engine: Engine, members: Sequence[Evaluation]) -> tuple[Copy, ...]:
        """Inputs of some of a length's rows in memory of their own, to be copied into their engine before every call:
        other rows use it in between. Raises: OutOfMemory.
        """
        block = self._device.allocate(self._size(engine, len(members)), Place.HOST)
        self._kept.append(block)
        return self._written(block, engine, members)

    def free_kept(self) -> None:
        """Give back what `keep` gave, once the stream is done with it."""
        if self._kept:
            self._device.synchronize(self._stream)
        while self._kept:
            self._device.free(self._kept.pop())

    def free(self) -> None:
        """Give all memory back. The stream must have been waited for."""
        self.free_kept()
        for ring in self._rings.values():
            ring.free()
        self._rings.clear()

    def _written(self, block: Buffer, engine: Engine, members: Sequence[Evaluation]) -> tuple[Copy, ...]:
        """The inputs of some rows in a block, one input after another."""
        copies, offset, rows = [], 0, len(members)
        for spec in map(engine.tensor, self._names):
            target = engine.part(spec.name, rows)
            part = block.part(offset, target.size)
            written: NDArray[Any] = self._device.view(part, spec.dtype, spec.at(rows), write=True)
            for position, member in enumerate(members):
                written[position] = member.inputs[spec.name]
            copies.append(Copy(source=part, destination=target))
            offset += aligned(target.size)
        return tuple(copies)

    def _size(self, engine: Engine, rows: int) -> int:
        return sum(aligned(engine.tensor(name).bytes_at(rows)) for name in self._names)

    def _make_ring(self, engine: Engine) -> StagingRing:
        """Staging for a length that has none; the longest unused leaves."""
        if len(self._rings) == LENGTHS:
            self._device.synchronize(self._stream)
            self._rings.pop(next(iter(self._rings))).free()
        # For all rows that there can be: the next engine for these tokens may take more than this one.
        return StagingRing(self._device, self._size(engine, self._most_rows), 2)
