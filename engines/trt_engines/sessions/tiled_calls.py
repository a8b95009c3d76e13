"""Calls of an autoencoder's engine with pictures that are larger than it takes: tile by tile, blended on the host."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.backend import Engine
from trt_engines.devices.device import Device, Event
from trt_engines.devices.errors import DeviceFault
from trt_engines.errors import EngineRefused
from trt_engines.sessions.host_calls import Arrays, HostCall, HostCalls
from trt_engines.tiles import OVERLAP, fades_of, tiles_of

AHEAD = 4
"""Tiles that are given to the device at a time: while some come back, it has others to work on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Times:
    """Where the work on a tile begins and ends in the engine's stream."""

    begun: Event
    ended: Event


class TiledCall:
    """One picture, or one latent, that is under way in tiles."""

    def __init__(self, calls: TiledCalls, given: NDArray[Any]) -> None:
        self.given = given  # [channels, height, width]
        self.seconds = 0.0  # that its tiles took on the device's clock so far
        self.begun = 0  # tiles given to the device
        self.back = 0  # tiles that have come back, in the same order
        self.blended: NDArray[np.float32] | None = None
        self.error: Exception | None = None  # why there will be no result
        self._calls = calls

    @property
    def done(self) -> bool:
        """Whether its results are there, or will never be; gives the device further tiles, and never waits."""
        if not self.over:
            self._calls.advance()
        return self.over

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.error is not None or self.back == self._calls.tiles

    def results(self) -> Arrays:
        """The output by name, of one row, in float32; waits for all tiles.

        Raises: EngineFault, OutOfMemory: a tile was refused.
        """
        while not self.over:
            self._calls.wait()
        if self.error is not None:
            raise self.error
        assert self.blended is not None
        return {self._calls.output: self.blended[np.newaxis]}


class TiledCalls:
    """What calls an engine with arrays that are larger than it takes; stands in for `HostCalls`.

    Args:
        engine: of an autoencoder, one way or the other, at the size of a tile.
        width, height: of the pictures, in pixels.
    Raises: EngineRefused: its tiles cannot cover such a picture.
    """

    def __init__(self, device: Device, engine: Engine, width: int, height: int) -> None:
        self.engine = engine
        (given,), (taken,) = engine.interface.inputs, engine.interface.outputs
        self.output = taken.name
        _, _, high, wide = engine.tensor("pixels").shape
        _, _, rows, columns = engine.tensor("latent").shape
        cell = high // rows
        try:
            if (high, wide) != (rows * cell, columns * cell):
                raise ValueError(f"{wide}x{high} pixels are not whole latent cells")
            overlap = -(-OVERLAP // cell) * cell
            self._tiles = tiles_of(width, height, (wide, high), overlap, cell)
        except ValueError as error:
            raise EngineRefused(f"{engine.label} cannot take {width}x{height} in tiles: {error}") from error
        unit = {"pixels": 1, "latent": cell}
        self._given, self._taken = unit[given.name], unit[taken.name]
        self._shape = (taken.shape[1], height // self._taken, width // self._taken)
        self._input = given.name
        self._fades = fades_of(self._tiles, self._taken)
        self._device = device
        self._calls = HostCalls(device, engine, AHEAD)
        self._unfinished: deque[TiledCall] = deque()  # of which tiles are still to be given to the device
        self._running: deque[tuple[TiledCall, HostCall, _Times]] = deque()
        self._times: list[_Times] = []

    @property
    def tiles(self) -> int:
        """Tiles of a picture."""
        return len(self._tiles)

    def begin(self, rows: int, inputs: Mapping[str, NDArray[Any]]) -> TiledCall:
        """Put the first tiles into the engine's stream, if others are not before them.

        Args:
            rows: 1.
            inputs: the engine's input by name, [1, channels, height, width] of the whole picture; not to be changed.
        """
        if rows != 1:
            raise ValueError(f"{self.engine.label}: {rows} rows asked of calls that take one picture at a time")
        call = TiledCall(self, inputs[self._input][0])
        self._unfinished.append(call)
        self.advance()
        return call

    def advance(self) -> None:
        """Take the tiles that have come back, and give the device others. Never waits."""
        while self._running and self._device.done(self._running[0][2].ended):
            self._take()
        self._give()

    def wait(self) -> None:
        """Wait for the next tile, if there is one, and give the device another."""
        self._give()
        if self._running:
            self._take()
        self._give()

    def close(self) -> None:
        """Wait for all calls, whose results stay, and give the memory back. The engine is not closed."""
        while self._unfinished or self._running:
            self.wait()
        self._calls.close()
        for times in self._times:
            self._device.free(times.begun)
            self._device.free(times.ended)
        self._times.clear()

    def _give(self) -> None:
        while self._unfinished and len(self._running) < AHEAD:
            call = self._unfinished[0]
            try:
                self._begin_tile(call)
            except DeviceFault:
                raise
            except Exception as error:  # noqa: BLE001  # whoever asks for the results is told
                call.error = error
            if call.error is not None or call.begun == self.tiles:
                self._unfinished.popleft()

    def _begin_tile(self, call: TiledCall) -> None:
        tile, unit, stream = self._tiles[call.begun], self._given, self.engine.stream
        rows = slice(tile.top // unit, (tile.top + tile.height) // unit)
        columns = slice(tile.left // unit, (tile.left + tile.width) // unit)
        times = self._times.pop() if self._times else self._make_times()
        try:
            self._device.record(times.begun, stream)
            running = self._calls.begin(1, {self._input: call.given[np.newaxis, :, rows, columns]})
            self._device.record(times.ended, stream)
        except Exception:
            self._times.append(times)
            raise
        self._running.append((call, running, times))
        call.begun += 1

    def _take(self) -> None:
        call, running, times = self._running.popleft()
        self._device.synchronize(times.ended)
        self._times.append(times)
        (values,) = running.results().values()
        if call.error is not None:
            return
        try:
            call.seconds += self._device.elapsed(times.begun, times.ended)
            self._blend(call, values[0])
        except DeviceFault:
            raise
        except Exception as error:  # noqa: BLE001  # whoever asks for the results is told
            call.error = error
            if call in self._unfinished:
                self._unfinished.remove(call)
        else:
            call.back += 1

    def _blend(self, call: TiledCall, values: NDArray[np.float32]) -> None:
        tile, fade, unit = self._tiles[call.back], self._fades[call.back], self._taken
        if call.blended is None:
            call.blended = np.zeros(self._shape, np.float32)
        top, left = tile.top // unit, tile.left // unit
        _, height, width = values.shape
        with np.errstate(invalid="ignore"):  # an infinity times nought: it is found in the result
            call.blended[:, top : top + height, left : left + width] += values * fade.weights

    def _make_times(self) -> _Times:
        label = self.engine.label
        return _Times(
            begun=self._device.create_event(f"a tile of {label} is begun", timed=True),
            ended=self._device.create_event(f"a tile of {label} is back", timed=True),
        )
