"""The kernels there are, and how each is called."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from trt_engines.devices.memory import Buffer
from trt_engines.kernels import twins
from trt_engines.kernels.kernel import FLOAT, Element, Kernel, KernelCall, Parameter, Role

MOST_TENSORS: Final = 8
"""Tensors of a row that `row_combine` can hold: `MOST_TENSORS` of rows.cu."""

ROW_SCALE: Final = Kernel(
    name="row_scale",
    source="rows.cu",
    parameters=(
        Parameter("sample", Element.VALUE, Role.WRITE),
        Parameter("state", Element.FLOAT, Role.READ),
        Parameter("place", Element.INT, Role.READ),
        Parameter("scale", Element.FLOAT, Role.READ),
        Parameter("size", Element.INT, Role.SCALAR),
        Parameter("tensors", Element.INT, Role.SCALAR),
    ),
    twin=twins.row_scale,
)

ROW_COMBINE: Final = Kernel(
    name="row_combine",
    source="rows.cu",
    parameters=(
        Parameter("state", Element.FLOAT, Role.UPDATE),
        Parameter("outputs", Element.VALUE, Role.READ),
        Parameter("mix", Element.FLOAT, Role.READ),
        Parameter("conditional", Element.LONG, Role.READ),
        Parameter("unconditional", Element.LONG, Role.READ),
        Parameter("size", Element.INT, Role.SCALAR),
        Parameter("registers", Element.INT, Role.SCALAR),
        Parameter("tensors", Element.INT, Role.SCALAR),
    ),
    twin=twins.row_combine,
)

MASK_BLEND: Final = Kernel(
    name="mask_blend",
    source="rows.cu",
    parameters=(
        Parameter("sample", Element.VALUE, Role.UPDATE),
        Parameter("known", Element.VALUE, Role.READ),
        Parameter("mask", Element.FLOAT, Role.READ),
        Parameter("channels", Element.INT, Role.SCALAR),
        Parameter("cells", Element.INT, Role.SCALAR),
    ),
    twin=twins.mask_blend,
)

TO_PIXELS: Final = Kernel(
    name="to_pixels",
    source="pixels.cu",
    parameters=(
        Parameter("pixels", Element.BYTE, Role.WRITE),
        Parameter("not_finite", Element.INT, Role.UPDATE),
        Parameter("decoded", Element.VALUE, Role.READ),
        Parameter("height", Element.INT, Role.SCALAR),
        Parameter("width", Element.INT, Role.SCALAR),
    ),
    twin=twins.to_pixels,
)

PHILOX_NORMAL: Final = Kernel(
    name="philox_normal",
    source="philox.cu",
    parameters=(
        Parameter("state", Element.FLOAT, Role.UPDATE),
        Parameter("seed", Element.LONG, Role.READ),
        Parameter("call", Element.LONG, Role.READ),
        Parameter("first", Element.LONG, Role.READ),
        Parameter("size", Element.INT, Role.SCALAR),
        Parameter("tensor", Element.INT, Role.SCALAR),
        Parameter("tensors", Element.INT, Role.SCALAR),
    ),
    twin=twins.philox_normal,
)

KERNELS: Final = (ROW_SCALE, ROW_COMBINE, MASK_BLEND, TO_PIXELS, PHILOX_NORMAL)


def row_scale(
    value: np.dtype[Any], *, sample: Buffer, state: Buffer, place: Buffer, scale: Buffer, size: int, tensors: int
) -> KernelCall:
    """Scaled samples into an engine's input, see `twins.row_scale`. Raises: ValueError: a buffer's size is wrong."""
    rows = place.size // 4
    _expect("sample", sample, rows * size * value.itemsize)
    _expect("scale", scale, rows * 4)
    _expect("state", state, state.size // (4 * tensors * size) * 4 * tensors * size)
    arguments = (sample, state, place, scale, size, tensors)
    return KernelCall(kernel=ROW_SCALE, value=value, arguments=arguments, threads=size, rows=rows)


def row_combine(
    value: np.dtype[Any],
    *,
    state: Buffer,
    outputs: Buffer,
    mix: Buffer,
    conditional: Buffer,
    unconditional: Buffer,
    size: int,
    registers: int,
    tensors: int,
) -> KernelCall:
    """One stage of every row, see `twins.row_combine`.

    Raises: ValueError: a buffer's size is wrong, or rows have more than `MOST_TENSORS` tensors.
    """
    if not registers + 2 <= tensors <= MOST_TENSORS:
        raise ValueError(f"rows of {registers} registers have {registers + 2} to {MOST_TENSORS} tensors, not {tensors}")
    rows = conditional.size // 8
    _expect("state", state, rows * tensors * size * 4)
    _expect("mix", mix, rows * registers * tensors * 4)
    _expect("unconditional", unconditional, rows * 8)
    arguments = (state, outputs, mix, conditional, unconditional, size, registers, tensors)
    return KernelCall(kernel=ROW_COMBINE, value=value, arguments=arguments, threads=size, rows=rows)


def mask_blend(
    value: np.dtype[Any], *, sample: Buffer, known: Buffer, mask: Buffer, channels: int, cells: int
) -> KernelCall:
    """Keep what a mask keeps, see `twins.mask_blend`. Raises: ValueError: a buffer's size is wrong."""
    rows = mask.size // (4 * cells)
    _expect("mask", mask, rows * 4 * cells)
    _expect("sample", sample, rows * channels * cells * value.itemsize)
    _expect("known", known, sample.size)
    arguments = (sample, known, mask, channels, cells)
    return KernelCall(kernel=MASK_BLEND, value=value, arguments=arguments, threads=channels * cells, rows=rows)


def to_pixels(
    value: np.dtype[Any], *, pixels: Buffer, not_finite: Buffer, decoded: Buffer, height: int, width: int
) -> KernelCall:
    """Decoded pictures to bytes, see `twins.to_pixels`. Raises: ValueError: a buffer's size is wrong."""
    rows = not_finite.size // 4
    _expect("pixels", pixels, rows * height * width * 3)
    _expect("decoded", decoded, pixels.size * value.itemsize)
    arguments = (pixels, not_finite, decoded, height, width)
    return KernelCall(kernel=TO_PIXELS, value=value, arguments=arguments, threads=height * width, rows=rows)


def philox_normal(
    *, state: Buffer, seed: Buffer, call: Buffer, first: Buffer, size: int, tensor: int, tensors: int
) -> KernelCall:
    """Noise into one tensor of the rows that draw any, see `twins.philox_normal`. No engine's type matters to it.

    Raises: ValueError: a buffer's size is wrong, or rows have no such tensor.
    """
    if not 0 <= tensor < tensors:
        raise ValueError(f"rows of {tensors} tensors have no tensor {tensor}")
    rows = call.size // 8
    _expect("state", state, rows * tensors * size * 4)
    _expect("call", call, rows * 8)
    _expect("seed", seed, rows * 8)
    _expect("first", first, rows * 8)
    arguments = (state, seed, call, first, size, tensor, tensors)
    return KernelCall(kernel=PHILOX_NORMAL, value=FLOAT, arguments=arguments, threads=size, rows=rows)


def _expect(name: str, buffer: Buffer, size: int) -> None:
    if buffer.size != size:
        raise ValueError(f"{name} has {buffer.size} bytes, and the call needs {size}")
