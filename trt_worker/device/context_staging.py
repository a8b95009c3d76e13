"""How the contexts of prompts get to the engines of a batch: through pinned memory, once per membership."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from trt_engines.backend import Engine
from trt_engines.devices.device import Device, Stream
from trt_engines.devices.memory import Buffer, Place
from trt_engines.devices.staging import StagingRing
from trt_engines.interface import TensorSpec
from trt_worker.device.row import Evaluation

CONTEXT_LENGTHS = 4
"""Lengths of prompts for whose contexts a batch keeps pinned memory: up to hundreds of MB for the longest ones."""


class ContextStaging:
    """Pinned memory for the contexts of one batch. Args: most_rows: engine rows of the batch."""

    def __init__(self, device: Device, stream: Stream, most_rows: int) -> None:
        self._device = device
        self._stream = stream
        self._most_rows = most_rows
        self._rings: dict[int, StagingRing] = {}  # by tokens, the latest used last
        self._kept: list[Buffer] = []  # of calls that upload theirs every time

    def upload(self, engine: Engine, tokens: int, members: Sequence[Evaluation]) -> None:
        """Put the contexts of all rows of a length into their engine, where they stay. Raises: OutOfMemory."""
        spec = engine.tensor("context")
        target = engine.part("context", len(members))
        ring = self._rings.pop(tokens, None) or self._make_ring(spec)
        self._rings[tokens] = ring
        staging = ring.next().part(0, target.size)
        self._write(staging, spec, members)
        self._device.copy(target, staging, self._stream)
        ring.sent(self._stream)

    def keep(self, engine: Engine, members: Sequence[Evaluation]) -> Buffer:
        """Contexts of some of a length's rows in memory of their own, to be copied into their engine before every call:
        other rows use it in between. Raises: OutOfMemory.
        """
        block = self._device.allocate(engine.part("context", len(members)).size, Place.HOST)
        self._kept.append(block)
        self._write(block, engine.tensor("context"), members)
        return block

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

    def _write(self, block: Buffer, spec: TensorSpec, members: Sequence[Evaluation]) -> None:
        written: NDArray[Any] = self._device.view(block, spec.dtype, spec.at(len(members)), write=True)
        for position, member in enumerate(members):
            written[position] = member.context

    def _make_ring(self, spec: TensorSpec) -> StagingRing:
        """Staging for a length that has none; the longest unused leaves."""
        if len(self._rings) == CONTEXT_LENGTHS:
            self._device.synchronize(self._stream)
            self._rings.pop(next(iter(self._rings))).free()
        # For all rows that there can be: the next engine for these tokens may take more than this one.
        return StagingRing(self._device, spec.bytes_at(self._most_rows), 2)
