"""Calls of an engine whose rows come from the host and go back to it, without the host waiting for them."""

from __future__ import annotations

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
        """The outputs by name, the caller's own: half precision as float32, everything else as the engine gives it.

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

    def begin(self, rows: int, inputs: Mapping[str, NDArray[Any]]) -> HostCall:
        """Put a call into the engine's stream.

        Args: inputs: by name, each of the tensor's shape at so many rows, in any type that converts to the tensor's.
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
            source = self.engine.of_call(tensor.name, rows)
            self._device.copy(slot.blocks[tensor.name].part(0, source.size), source, stream)
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
            block = slot.blocks[tensor.name].part(0, tensor.bytes_at(rows))
            pinned = self._device.view(block, tensor.dtype, tensor.at(rows))
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
        tensors = self.engine.interface.tensors
        blocks = allocate_together(self._device, ((one.bytes, Place.HOST) for one in tensors))
        return _Slot(
            blocks=dict(zip((one.name for one in tensors), blocks, strict=True)),
            done=self._device.create_event(f"a call of {self.engine.label} is back"),
        )
