"""Latents to pictures in a stream of their own, while the device goes on denoising."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from trt_engines.devices.device import Device, Event, Stream
from trt_engines.devices.memory import Buffer, Place
from trt_engines.kernels.catalogue import to_pixels
from trt_engines.kernels.kernel import KernelCall
from trt_engines.sessions.bound import BoundEngine

Tag = TypeVar("Tag")

_FLAG = np.dtype(np.int32)
_PIXEL = np.dtype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded(Generic[Tag]):
    """One picture that has come back."""

    tag: Tag
    pixels: NDArray[np.uint8]  # [height, width, 3], RGB, the caller's own
    finite: bool  # False: the network's output holds a NaN or an infinity, and the picture is not to be used


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Slot:
    """Memory of one picture on its way."""

    latent: Buffer
    pixels: Buffer
    flag: Buffer
    host_pixels: Buffer
    host_flag: Buffer
    kept: Event  # the latent is out of the batch
    done: Event  # the picture is in host memory
    convert: KernelCall


class DeviceDecoder(Generic[Tag]):
    """One VAE decoder engine that decodes a picture at a time; the host waits for none.

    Args:
        engine: on a stream of its own, of one row or more.
        slots: pictures that may be on their way at once.
    Raises: OutOfMemory.
    """

    def __init__(self, device: Device, engine: BoundEngine, slots: int = 2) -> None:
        self._device = device
        self._engine = engine
        self._stream = engine.stream
        _, _, self._height, self._width = engine.spec("pixels").shape
        self._free = deque(self._slot(number) for number in range(slots))
        self._running: deque[tuple[Tag, _Slot]] = deque()

    @property
    def room(self) -> int:
        """Pictures that `begin` takes now."""
        return len(self._free)

    def begin(self, tag: Tag, latent: Buffer, stream: Stream) -> None:
        """Take a latent out of another stream's memory, which may be used again by what follows in that stream.

        Args:
            latent: float32 [channels, height, width], in the denoiser's units.
            stream: where it was computed.
        Raises: ValueError: there is no room. EngineFault: the call was refused.
        """
        if not self._free:
            raise ValueError(f"{self._engine.label}: all {len(self._running)} places are taken")
        slot, device, decode = self._free.popleft(), self._device, self._stream
        device.copy(slot.latent, latent, stream)
        device.record(slot.kept, stream)
        device.wait(decode, slot.kept)
        device.copy(self._engine.part("latent", 1), slot.latent, decode)
        self._engine.run(1)
        device.fill(slot.flag, 0, decode)
        device.launch(slot.convert, decode)
        device.copy(slot.host_pixels, slot.pixels, decode)
        device.copy(slot.host_flag, slot.flag, decode)
        device.record(slot.done, decode)
        self._running.append((tag, slot))

    def finished(self) -> list[Decoded[Tag]]:
        """Pictures that have come back, oldest first. Never waits."""
        back = []
        while self._running and self._device.done(self._running[0][1].done):
            back.append(self._take())
        return back

    def wait(self) -> Decoded[Tag]:
        """The oldest picture on its way; waits for it. Raises: IndexError: there is none."""
        self._device.synchronize(self._running[0][1].done)
        return self._take()

    def close(self) -> None:
        """Wait for the stream, drop what is on its way, and give the memory back."""
        self._device.synchronize(self._stream)
        for slot in (*self._free, *(slot for _, slot in self._running)):
            buffers = slot.latent, slot.pixels, slot.flag, slot.host_pixels, slot.host_flag
            for resource in (*buffers, slot.kept, slot.done):
                self._device.free(resource)
        self._free.clear()
        self._running.clear()

    def _take(self) -> Decoded[Tag]:
        tag, slot = self._running.popleft()
        pixels = self._device.view(slot.host_pixels, _PIXEL, (self._height, self._width, 3)).copy()
        (flag,) = self._device.view(slot.host_flag, _FLAG, (1,))
        self._free.append(slot)
        return Decoded(tag=tag, pixels=pixels, finite=not flag)

    def _slot(self, number: int) -> _Slot:
        device = self._device
        bytes_of_pixels = self._height * self._width * 3
        pixels, flag = device.allocate(bytes_of_pixels), device.allocate(_FLAG.itemsize)
        convert = to_pixels(
            self._engine.spec("pixels").dtype,
            pixels=pixels,
            not_finite=flag,
            decoded=self._engine.part("pixels", 1),
            height=self._height,
            width=self._width,
        )
        return _Slot(
            latent=device.allocate(self._engine.spec("latent").bytes_at(1)),
            pixels=pixels,
            flag=flag,
            host_pixels=device.allocate(bytes_of_pixels, Place.HOST),
            host_flag=device.allocate(_FLAG.itemsize, Place.HOST),
            kept=device.create_event(f"latent {number} is kept"),
            done=device.create_event(f"picture {number} is back"),
            convert=convert,
        )
