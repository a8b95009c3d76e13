"""What a step needs of the host: one block of coefficients for all rows, and the noise that only the host can draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from trt_engines.devices.device import Device, Stream
from trt_engines.devices.memory import Buffer, aligned
from trt_engines.devices.staging import StagingRing
from trt_worker.denoise.noise import PhiloxDraw
from trt_worker.denoise.program import CONDITIONAL, REGISTERS, TENSORS, UNCHANGED
from trt_worker.device.row import Evaluation, Row

_ABSENT = -1

_ENTRIES: dict[str, np.dtype[Any]] = {
    "outputs": np.dtype(np.int64),  # first element of an image's conditional output, then those of the others
    "mix": np.dtype((np.float32, (REGISTERS, TENSORS))),
    "place": np.dtype(np.int32),  # the image that an engine row belongs to
    "scale": np.dtype(np.float32),
    "timestep": np.dtype(np.float32),
    "seed": np.dtype(np.uint64),  # of the noise that the device draws for an image, with its place in the stream
    "call": np.dtype(np.int64),  # negative: it draws none
    "first": np.dtype(np.int64),
}
"""What is uploaded: two of `outputs` per image, the entries of `_PER_IMAGE`, and the others per engine row."""

_PER_IMAGE = ("mix", "seed", "call", "first")


def coefficient_bytes(capacity: int) -> int:
    """Device memory of the coefficients. Args: capacity: images of the batch."""
    return _layout(capacity).itemsize


class StepCoefficients:
    """The coefficients of one batch on the device, written anew for every step.

    Args:
        capacity: images of the batch; each has at most two engine rows.
        size: values of a latent.
        steps_ahead: uploads that may be under way at once.
    Raises: OutOfMemory: nothing stays allocated then.
    """

    def __init__(self, device: Device, stream: Stream, capacity: int, size: int, steps_ahead: int) -> None:
        self._device = device
        self._stream = stream
        self._capacity = capacity
        self._size = size
        self._fields = _layout(capacity)
        self._noise_offset = aligned(self._fields.itemsize)
        with ExitStack() as undo:
            self._coefficients = device.allocate(self._fields.itemsize)
            undo.callback(device.free, self._coefficients)
            self._steps = StagingRing(device, self._noise_offset + capacity * size * 4, steps_ahead)
            undo.pop_all()

    def field(self, name: str, count: int, first: int = 0) -> Buffer:
        """Some entries of a field, one after another. Args: name: see `_ENTRIES`."""
        offset = self._fields.fields[name][1]  # type: ignore[index]  # it has fields
        size = _ENTRIES[name].itemsize
        return self._coefficients.part(offset + first * size, count * size)

    def outputs_of_others(self, count: int) -> Buffer:
        """Where images' unconditional outputs begin."""
        return self.field("outputs", count, self._capacity)

    def upload(
        self,
        rows: Sequence[Row],
        members: Sequence[Evaluation],
        noise_of: Callable[[int], Buffer],
        only: str | None = None,
    ) -> bool:
        """Put the upload of a step into the stream.

        Args:
            rows: images, in the order of their places.
            members: engine rows, in the order of their outputs.
            noise_of: the noise tensor of a place, for what the host draws.
            only: the job whose rows take part; the others are left as they are. None: all take part.
        Returns: whether the device has noise to draw.
        """
        staging = self._steps.next()
        try:
            return self._fill_and_copy(staging, rows, members, noise_of, only)
        finally:
            self._steps.sent(self._stream)  # whatever was put into the stream still reads the block

    def _fill_and_copy(
        self,
        staging: Buffer,
        rows: Sequence[Row],
        members: Sequence[Evaluation],
        noise_of: Callable[[int], Buffer],
        only: str | None,
    ) -> bool:
        block = staging.part(0, self._fields.itemsize)
        fields = self._device.view(block, self._fields, (1,), write=True)[0]
        images = [rows[member.place] for member in members]
        fields["mix"][: len(rows)] = [
            row.program.mix[row.stage] if only in {None, row.job} else UNCHANGED for row in rows
        ]
        fields["scale"][: len(members)] = [row.program.c_in[row.stage] for row in images]
        fields["timestep"][: len(members)] = [row.program.timestep[row.stage] for row in images]
        fields["place"][: len(members)] = [member.place for member in members]
        fields["outputs"] = _ABSENT
        for position, member in enumerate(members):
            half = (member.column - CONDITIONAL) * self._capacity
            fields["outputs"][half + member.place] = position * self._size
        device_draws = self._noise(rows, fields, staging, noise_of, only)
        self._device.copy(self._coefficients, block, self._stream)
        return device_draws

    def free(self) -> None:
        """Give the memory back. The stream must have been waited for."""
        self._steps.free()
        self._device.free(self._coefficients)

    def _noise(
        self, rows: Sequence[Row], fields: Any, staging: Buffer, noise_of: Callable[[int], Buffer], only: str | None
    ) -> bool:
        fields["call"] = _ABSENT
        device_draws = False
        for place, row in enumerate(rows):
            noise = row.step_noise() if only in {None, row.job} else None
            if isinstance(noise, PhiloxDraw):
                device_draws = True
                for name in ("seed", "call", "first"):
                    fields[name][place] = getattr(noise, name)
            elif noise is not None:
                target = noise_of(place)
                part = staging.part(self._noise_offset + place * target.size, target.size)
                self._device.view(part, np.dtype(np.float32), (self._size,), write=True)[:] = noise.reshape(-1)
                self._device.copy(target, part, self._stream)
        return device_draws


def _layout(capacity: int) -> np.dtype[Any]:
    """All fields, each aligned. An image has at most two engine rows."""
    counts = {name: capacity if name in _PER_IMAGE else 2 * capacity for name in _ENTRIES}
    offsets, end = [], 0
    for name, count in counts.items():
        offsets.append(end)
        end += aligned(count * _ENTRIES[name].itemsize)
    formats = [(_ENTRIES[name], count) for name, count in counts.items()]
    return np.dtype({"names": list(counts), "formats": formats, "offsets": offsets, "itemsize": end})
