"""Latents to pictures that the decoder does not take whole: tile by tile, blended on the host."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from trt_engines.backend import Engine
from trt_engines.devices.device import Device, Event, Stream
from trt_engines.devices.errors import DeviceFault
from trt_engines.devices.memory import Buffer, Place
from trt_engines.kernels import twins
from trt_engines.sessions.tiled_calls import TiledCall, TiledCalls
from trt_worker.decode.decoder import Decoded

Tag = TypeVar("Tag")

_VALUE = np.dtype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Slot:
    """Host memory of one latent."""

    latent: Buffer
    kept: Event  # it is out of the batch, and the host's


class TiledDecoder(Generic[Tag]):
    """One VAE decoder engine that decodes a picture at a time, in tiles; used as `Decoder` is.

    What the host does between tiles is done in `finished` and `wait`.

    Args:
        engine: of a tile, in a stream of its own.
        width, height: of the pictures, in pixels.
        slots: pictures that may be on their way at once.
    Raises: EngineRefused: its tiles cannot cover such a picture.
    """

    def __init__(self, device: Device, engine: Engine, width: int, height: int, slots: int) -> None:
        self.engine = engine
        self._device = device
        self._most = slots
        self._width, self._height = width, height
        self._calls = TiledCalls(device, engine, width, height)
        _, channels, rows, columns = engine.tensor("latent").shape
        _, _, tile_height, tile_width = engine.tensor("pixels").shape
        self._latent = (channels, height * rows // tile_height, width * columns // tile_width)
        self._free: deque[_Slot] = deque()
        self._coming: deque[tuple[Tag, _Slot]] = deque()  # whose latents are on their way to the host
        self._running: deque[tuple[Tag, TiledCall]] = deque()
        self._back: deque[Decoded[Tag]] = deque()

    @property
    def running(self) -> int:
        """Pictures that were begun and not yet given back."""
        return len(self._coming) + len(self._running) + len(self._back)

    def begin(self, tag: Tag, latent: Buffer, stream: Stream) -> None:
        """Take a latent out of another stream's memory, which may be used again by what follows in that stream.

        Waits for the oldest picture only when all slots are taken.

        Args:
            latent: float32 [channels, height, width], in the denoiser's units.
            stream: where it was computed.
        Raises: EngineFault, OutOfMemory: the copy was refused. What a tile is refused for is the picture's `error`.
        """
        while len(self._coming) + len(self._running) >= self._most:
            self._next()
        slot = self._free.popleft() if self._free else self._make_slot()
        try:
            self._device.copy(slot.latent, latent, stream)
            self._device.record(slot.kept, stream)
        except Exception:  # whatever it was: the slot is not lost with the picture
            self._device.synchronize(stream)
            self._free.append(slot)
            raise
        self._coming.append((tag, slot))

    def finished(self) -> list[Decoded[Tag]]:
        """Pictures that have come back, oldest first, each given once; gives the device further tiles. Never waits."""
        while self._coming and self._device.done(self._coming[0][1].kept):
            self._enter()
        self._calls.advance()
        self._take()
        back = list(self._back)
        self._back.clear()
        return back

    def wait(self) -> None:
        """Wait until the next tile of a picture on its way, if there is one, has come back."""
        if not self._back:
            self._next()

    def close(self) -> None:
        """Wait for all pictures, which `finished` still gives, and free the memory. The engine is not closed."""
        while self._coming or self._running:
            self._next()
        self._calls.close()
        for slot in self._free:
            self._device.free(slot.latent)
            self._device.free(slot.kept)
        self._free.clear()

    def _next(self) -> None:
        """Wait for a tile, or for a latent where there is no tile to wait for."""
        if self._coming and not self._running:
            self._device.synchronize(self._coming[0][1].kept)
            self._enter()
        self._calls.wait()
        self._take()

    def _enter(self) -> None:
        """The oldest latent on its way is the host's: its tiles are next."""
        tag, slot = self._coming.popleft()
        latent = self._device.view(slot.latent, _VALUE, self._latent).copy()
        self._free.append(slot)
        self._running.append((tag, self._calls.begin(1, {"latent": latent[np.newaxis]})))

    def _take(self) -> None:
        while self._running and self._running[0][1].over:
            tag, call = self._running.popleft()
            try:
                pixels = np.empty((self._height, self._width, 3), np.uint8)
                flag = np.zeros(1, np.int32)
                twins.to_pixels(pixels, flag, call.results()["pixels"], self._height, self._width)
            except DeviceFault:
                raise
            except Exception as error:  # noqa: BLE001  # whoever gets it says whose it is
                nothing = np.zeros((0, 0, 3), np.uint8)
                self._back.append(Decoded(tag=tag, pixels=nothing, finite=True, seconds=0.0, error=error))
            else:
                self._back.append(Decoded(tag=tag, pixels=pixels, finite=not flag[0], seconds=call.seconds))

    def _make_slot(self) -> _Slot:
        size = int(np.prod(self._latent)) * _VALUE.itemsize
        return _Slot(
            latent=self._device.allocate(size, Place.HOST),
            kept=self._device.create_event("a latent that is decoded in tiles is kept"),
        )
