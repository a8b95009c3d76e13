"""Calls of an engine whose rows come from the host and go back to it, without the host waiting for them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.backend import Engine
from trt_engines.devices.allocation import allocate_together
from trt_engines.devices.device import Device, Event
from trt_engines.devices.memory import Buffer, Place
from trt_engines.interface import TensorSpec

Arrays = dict[str, NDArray[Any]]

SLOTS = 8
"""Calls that may be under way at once; one more waits for the first of them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Slot:
    """Pinned memory of one call, by tensor."""

    blocks: Mapping[str, Buffer]
    done: Event


class HostCall:
    """One call that is under way."""

    def __init__(self, calls: HostCalls, slot: _Slot, rows: int) -> None:
        self._calls = calls
        self._slot = slot
        self._rows = rows
        self._results: Arrays | None = None

    @property
    def done(self) -> bool:
        """Whether its results are there; never waits."""
        return self._results is not None or self._calls.is_done(self._slot)

    def results(self) -> Arrays:
        """The outputs by name, the caller's own: half precision as float32, everything else as the engine gives it. Of
        an output whose rows are not its first axis, the entry that was asked for: its first axis is gone.

        Waits for the call.
        """
        if self._results is None:
            self._results = self._calls.take(self, self._slot, self._rows)
        return self._results


class HostCalls:
    """What calls an engine with arrays.

    Values are converted to the engine's types on the host; what a narrower type cannot hold becomes infinite, which
    whoever looks at the results finds. Memory is made when more calls are under way than ever before.
    """

    def __init__(self, device: Device, engine: Engine, slots: int = SLOTS) -> None:
        self.engine = engine
        self._device = device
        self._most = slots
        self._free: deque[_Slot] = deque()
        self._running: deque[HostCall] = deque()

    def begin(self, rows: int, inputs: Mapping[str, NDArray[Any]], entry: int = 0) -> HostCall:
        """Put a call into the engine's stream.

        Args:
            inputs: by name, each of the tensor's shape at so many rows, in any type that converts to the tensor's.
            entry: along the first axis of outputs whose rows are not that axis, the one that is brought to the host.
        Raises: EngineFault, OutOfMemory: the call was refused. ValueError: there are no such rows.
        """
        if not 1 <= rows <= self.engine.rows:
            raise ValueError(f"{self.engine.label}: {rows} rows asked of {self.engine.rows}")
        slot, stream = self._slot(), self.engine.stream
        try:
            for tensor in self.engine.interface.inputs:
                target = self.engine.of_call(tensor.name, rows)
                block = slot.blocks[tensor.name].part(0, target.size)
                pinned = self._device.view(block, tensor.dtype, tensor.at(rows), write=True)
                with np.errstate(over="ignore"):
                    pinned[...] = inputs[tensor.name]
                self._device.copy(target, block, stream)
            self.engine.run(rows)
        except Exception:  # whatever it was: the slot is not lost with the call
            self._device.synchronize(stream)
            self._free.append(slot)
            raise
        for tensor in self.engine.interface.outputs:
            size = _entry_bytes(tensor, rows)
            source = self.engine.of_call(tensor.name, rows).part(entry * size if tensor.row_axis else 0, size)
            self._device.copy(slot.blocks[tensor.name].part(0, size), source, stream)
        self._device.record(slot.done, stream)
        call = HostCall(self, slot, rows)
        self._running.append(call)
        return call

    def run(self, rows: int, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """A call, waited for. Raises: EngineFault, OutOfMemory, ValueError: see `begin`."""
        return self.begin(rows, inputs).results()

    def close(self) -> None:
        """Wait for the calls under way, whose results stay, and give the memory back. The engine is not closed."""
        while self._running:
            self._running[0].results()
        while self._free:
            slot = self._free.popleft()
            for block in slot.blocks.values():
                self._device.free(block)
            self._device.free(slot.done)

    def is_done(self, slot: _Slot) -> bool:
        """Whether a call's results are in its memory."""
        return self._device.done(slot.done)

    def take(self, call: HostCall, slot: _Slot, rows: int) -> Arrays:
        """The results of a call, whose memory is then another's."""
        self._device.synchronize(slot.done)
        results = {}
        for tensor in self.engine.interface.outputs:
            block = slot.blocks[tensor.name].part(0, _entry_bytes(tensor, rows))
            pinned = self._device.view(block, tensor.dtype, tensor.at(rows)[tensor.row_axis :])
            whole = tensor.dtype.kind in "iub" or tensor.dtype == np.float64
            results[tensor.name] = pinned.copy() if whole else pinned.astype(np.float32)
        self._running.remove(call)
        self._free.append(slot)
        return results

    def _slot(self) -> _Slot:
        if not self._free and len(self._running) == self._most:
            self._running[0].results()
        if self._free:
            return self._free.popleft()
        interface, rows = self.engine.interface, self.engine.rows
        sizes = {one.name: one.bytes for one in interface.inputs}
        sizes |= {one.name: _entry_bytes(one, rows) for one in interface.outputs}
        blocks = allocate_together(self._device, ((size, Place.HOST) for size in sizes.values()))
        return _Slot(
            blocks=dict(zip(sizes, blocks, strict=True)),
            done=self._device.create_event(f"a call of {self.engine.label} is back"),
        )


def _entry_bytes(output: TensorSpec, rows: int) -> int:
    """Of what is brought to the host: one entry along each axis before the rows."""
    return output.bytes_at(rows) // math.prod(output.shape[: output.row_axis])
