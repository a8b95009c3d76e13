"""Latents to pictures in a stream of their own, while the device goes on denoising."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from trt_engines.backend import Engine
from trt_engines.devices.allocation import allocate_together
from trt_engines.devices.device import Device, Event, Stream
from trt_engines.devices.errors import DeviceFault
from trt_engines.devices.memory import ALIGNMENT, Buffer, Place, aligned
from trt_engines.kernels.catalogue import row_scale, to_pixels
from trt_engines.kernels.kernel import KernelCall

Tag = TypeVar("Tag")

_FLAG = np.dtype(np.int32)
_PIXEL = np.dtype(np.uint8)
_UNCHANGED = np.dtype([("place", np.int32), ("scale", np.float32)])
"""What `row_scale` reads when it only converts: the first row, times one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded(Generic[Tag]):
    """One picture that has come back."""

    tag: Tag
    pixels: NDArray[np.uint8]  # [height, width, 3], RGB, the caller's own
    finite: bool  # False: the network's output holds a NaN or an infinity, and the picture is not to be used
    seconds: float  # that it took on the device's clock
    error: Exception | None = None  # why there are no pixels, as when the host has no room for them


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Slot:
    """Memory of one picture on its way."""

    latent: Buffer
    pixels: Buffer
    flag: Buffer
    host_pixels: Buffer
    host_flag: Buffer
    kept: Event  # the latent is out of the batch
    begun: Event
    decoded: Event
    back: Event  # the picture is in host memory
    give: KernelCall  # the latent to the engine, in its type
    convert: KernelCall


def device_bytes(engine: Engine, slots: int) -> int:
    """Device memory that a decoder takes at most beside its engine. Args: see `Decoder`."""
    latent = _latent_values(engine) * 4
    _, _, height, width = engine.tensor("pixels").shape
    return slots * (aligned(latent) + aligned(height * width * 3) + aligned(_FLAG.itemsize)) + ALIGNMENT


def _latent_values(engine: Engine) -> int:
    """Values of one latent."""
    latent = engine.tensor("latent")
    return latent.bytes_at(1) // latent.dtype.itemsize


class Decoder(Generic[Tag]):
    """One VAE decoder engine that decodes a picture at a time; the host waits for none.

    Memory is made when more pictures are on their way than ever before.

    Args:
        engine: in a stream of its own, of one row or more.
        copies: stream of the pictures' way to the host, beside the next one's decoding.
        slots: pictures that may be on their way at once: all of a batch may end in the same step.
    Raises: OutOfMemory.
    """

    def __init__(self, device: Device, engine: Engine, copies: Stream, slots: int) -> None:
        self.engine = engine
        self._device = device
        self._most = slots
        self._stream, self._copies = engine.stream, copies
        _, _, self._height, self._width = engine.tensor("pixels").shape
        self._size = _latent_values(engine)
        self._constants = self._upload_constants()
        self._free: deque[_Slot] = deque()
        self._running: deque[tuple[Tag, _Slot]] = deque()
        self._back: deque[Decoded[Tag]] = deque()

    @property
    def running(self) -> int:
        """Pictures that were begun and not yet given back."""
        return len(self._running) + len(self._back)

    def begin(self, tag: Tag, latent: Buffer, stream: Stream) -> None:
        """Take a latent out of another stream's memory, which may be used again by what follows in that stream.

        Waits for the oldest picture only when all slots are taken.

        Args:
            latent: float32 [channels, height, width], in the denoiser's units.
            stream: where it was computed.
        Raises: EngineFault, OutOfMemory: the call was refused.
        """
        slot, device, decode = self._slot(), self._device, self._stream
        try:
            device.copy(slot.latent, latent, stream)
            device.record(slot.kept, stream)
            device.wait(decode, slot.kept)
            device.record(slot.begun, decode)
            device.launch(slot.give, decode)
            self.engine.run(1)
            device.fill(slot.flag, 0, decode)
            device.launch(slot.convert, decode)
            device.record(slot.decoded, decode)
            device.wait(self._copies, slot.decoded)
            device.copy(slot.host_pixels, slot.pixels, self._copies)
            device.copy(slot.host_flag, slot.flag, self._copies)
            device.record(slot.back, self._copies)
        except Exception:  # whatever it was: the slot is not lost with the picture
            for used in (stream, decode, self._copies):
                device.synchronize(used)
            self._free.append(slot)
            raise
        self._running.append((tag, slot))

    def finished(self) -> list[Decoded[Tag]]:
        """Pictures that have come back, oldest first, each given once. Never waits."""
        while self._running and self._device.done(self._running[0][1].back):
            self._take()
        back = list(self._back)
        self._back.clear()
        return back

    def wait(self) -> None:
        """Wait until the oldest picture on its way, if there is one, has come back."""
        if self._running and not self._back:
            self._take()

    def close(self) -> None:
        """Wait for all pictures, which `finished` still gives, and free the memory. The engine is not closed."""
        while self._running:
            self._take()
        self._device.synchronize(self._stream)
        for slot in self._free:
            buffers = slot.latent, slot.pixels, slot.flag, slot.host_pixels, slot.host_flag
            for resource in (*buffers, slot.kept, slot.begun, slot.decoded, slot.back):
                self._device.free(resource)
        self._device.free(self._constants)
        self._free.clear()

    def _take(self) -> None:
        tag, slot = self._running.popleft()
        self._device.synchronize(slot.back)
        self._free.append(slot)
        try:
            pixels = self._device.view(slot.host_pixels, _PIXEL, (self._height, self._width, 3)).copy()
            (flag,) = self._device.view(slot.host_flag, _FLAG, (1,))
            seconds = self._device.elapsed(slot.begun, slot.decoded)
        except DeviceFault:
            raise
        except Exception as error:  # noqa: BLE001  # whoever gets it says whose it is
            nothing = np.zeros((0, 0, 3), np.uint8)
            self._back.append(Decoded(tag=tag, pixels=nothing, finite=True, seconds=0.0, error=error))
        else:
            self._back.append(Decoded(tag=tag, pixels=pixels, finite=not flag, seconds=seconds))

    def _slot(self) -> _Slot:
        if not self._free and len(self._running) == self._most:
            self._take()
        return self._free.popleft() if self._free else self._make_slot(len(self._running) + 1)

    def _make_slot(self, number: int) -> _Slot:
        device = self._device
        bytes_of_pixels = self._height * self._width * 3
        latent, pixels, flag, host_pixels, host_flag = allocate_together(
            device,
            (
                (self._size * 4, Place.DEVICE),
                (bytes_of_pixels, Place.DEVICE),
                (_FLAG.itemsize, Place.DEVICE),
                (bytes_of_pixels, Place.HOST),
                (_FLAG.itemsize, Place.HOST),
            ),
        )
        return _Slot(
            latent=latent,
            pixels=pixels,
            flag=flag,
            host_pixels=host_pixels,
            host_flag=host_flag,
            kept=device.create_event(f"latent {number} is kept"),
            begun=device.create_event(f"picture {number} is begun", timed=True),
            decoded=device.create_event(f"picture {number} is decoded", timed=True),
            back=device.create_event(f"picture {number} is back"),
            give=row_scale(
                self.engine.tensor("latent").dtype,
                sample=self.engine.part("latent", 1),
                state=latent,
                place=self._constants.part(0, 4),
                scale=self._constants.part(4, 4),
                size=self._size,
                tensors=1,
            ),
            convert=to_pixels(
                self.engine.tensor("pixels").dtype,
                pixels=pixels,
                not_finite=flag,
                decoded=self.engine.part("pixels", 1),
                height=self._height,
                width=self._width,
            ),
        )

    def _upload_constants(self) -> Buffer:
        size = _UNCHANGED.itemsize
        source, target = allocate_together(self._device, ((size, Place.HOST), (size, Place.DEVICE)))
        self._device.view(source, _UNCHANGED, (1,), write=True)[0] = (0, 1.0)
        self._device.copy(target, source, self._stream)
        self._device.synchronize(self._stream)
        self._device.free(source)
        return target
