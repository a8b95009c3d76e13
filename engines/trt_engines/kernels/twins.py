"""What the kernels compute, in NumPy: float32 arithmetic in the kernels' own order, rounded to nearest even at the end.

Arrays are flat, as kernels see memory. A twin and its kernel agree bit for bit (the kernels are compiled without fused
multiply-add), but for `philox_normal`: libraries differ in the last bits of logarithm and sine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.philox import philox_randn

Floats = NDArray[np.float32]
Values = NDArray[Any]  # float32, float16 or bfloat16
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Bytes = NDArray[np.uint8]

PHILOX_ULPS = 8
"""Units in the last place by which values of `philox_normal` and its twin may differ: their libraries' logarithms and
sines are good to two or three each. Through g++ the most is 5, in 31 million values."""

_PIXEL_LINES = 64


def row_scale(sample: Values, state: Floats, place: Ints, scale: Floats, size: int, tensors: int) -> None:
    """sample[r] = scale[r] * state[place[r]], first tensor.

    Args:
        sample: [rows, size], written.
        state: [places, tensors, size].
        place, scale: [rows].
    """
    blocks = state.reshape(-1, tensors, size)
    sample.reshape(len(place), size)[:] = blocks[place, 0] * scale[:, np.newaxis]


def row_combine(
    state: Floats,
    outputs: Values,
    mix: Floats,
    conditional: Longs,
    unconditional: Longs,
    size: int,
    registers: int,
    tensors: int,
) -> None:
    """Every register of every row becomes a linear combination of the row's tensors, history included.

    A row's tensors are its registers, its conditional and unconditional output, and the tensors of its state after
    those two (noise). Terms are added in that order; one whose factor is 0 is left out, whatever it holds.

    Args:
        state: [rows, tensors, size]; the first `registers` tensors of a row are rewritten.
        outputs: the network's outputs, anywhere in it.
        mix: [rows, registers, tensors].
        conditional, unconditional: [rows], first element of the row's output in `outputs`; negative: it has none, and
            zeros stand for it.
    """
    rows = len(conditional)
    blocks = state.reshape(rows, tensors, size)
    for row, factors in enumerate(mix.reshape(rows, registers, tensors).tolist()):
        terms: list[Any] = list(blocks[row])
        for tensor, first in ((registers, conditional[row]), (registers + 1, unconditional[row])):
            terms[tensor] = outputs[first : first + size].astype(np.float32, copy=False) if first >= 0 else 0.0
        updated = [_combined(factors[register], terms, register) for register in range(registers)]
        for register, combination in enumerate(updated):
            if combination is not None:
                blocks[row, register] = combination


def _combined(factors: list[float], terms: list[Any], register: int) -> Any:
    """A register's new values, or the one that all of them are; None: they are those it has."""
    used = [tensor for tensor, factor in enumerate(factors) if factor]
    if not used:
        return 0.0
    if used == [register] and factors[register] == 1.0:
        return None
    total = terms[used[0]] * np.float32(factors[used[0]])
    for tensor in used[1:]:
        total = total + terms[tensor] * np.float32(factors[tensor])
    return total


def mask_blend(sample: Values, known: Values, mask: Floats, channels: int, cells: int) -> None:
    """sample = mask * sample + (1 - mask) * known, with one mask for all channels of a row.

    Args:
        sample: [rows, channels, cells], rewritten.
        known: the same shape: what shows where the mask is 0.
        mask: [rows, cells], 0..1.
    """
    shape = (-1, channels, cells)
    blended = sample.reshape(shape)
    keep = mask.reshape(-1, 1, cells)
    kept = blended.astype(np.float32) * keep
    kept += known.reshape(shape).astype(np.float32) * (np.float32(1) - keep)
    blended[:] = kept


def to_pixels(pixels: Bytes, not_finite: Ints, decoded: Values, height: int, width: int) -> None:
    """pixels = trunc(clip(255 * (x / 2 + 0.5), 0, 255)), from planes to RGB triples; what is no number becomes 0.

    The operations and their order are ComfyUI's in float32.

    Args:
        pixels: [rows, height, width, 3], written.
        not_finite: [rows], set to 1 where a row holds a NaN or an infinity; otherwise left as it is.
        decoded: [rows, 3, height, width], -1..1 with some overshoot.
    """
    rows = len(not_finite)
    planes = decoded.reshape(rows, 3, height, width)
    out = pixels.reshape(rows, height, width, 3)
    for row in range(rows):
        for top in range(0, height, _PIXEL_LINES):
            block = planes[row, :, top : top + _PIXEL_LINES].astype(np.float32)
            finite = np.isfinite(block)
            if not finite.all():
                not_finite[row] = 1
                block[np.isnan(block)] = -1
            block *= np.float32(0.5)
            block += np.float32(0.5)
            block *= np.float32(255)
            np.clip(block, np.float32(0), np.float32(255), out=block)
            out[row, top : top + _PIXEL_LINES] = block.transpose(1, 2, 0)


def philox_normal(state: Floats, seed: Longs, call: Longs, first: Longs, size: int, tensor: int, tensors: int) -> None:
    """One tensor of each row becomes what PyTorch's CUDA generator draws, see `philox_randn`.

    Kernel and twin differ by at most `PHILOX_ULPS` units in the last place of a value.

    Args:
        state: [rows, tensors, size]; of a row, `tensor` is written and nothing else.
        seed: [rows], the bits of 0 <= seed < 2**64.
        call: [rows], tensors that the generator has given before; negative: the row draws nothing.
        first: [rows], element number of the first value.
    """
    blocks = state.reshape(len(call), tensors, size)
    for row in np.flatnonzero(call >= 0):
        blocks[row, tensor] = philox_randn(int(seed[row]) & _SEEDS, (size,), int(call[row]), int(first[row]))


_SEEDS = 2**64 - 1
