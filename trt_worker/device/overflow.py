"""Whether a picture that is not finite is explained by the numbers that its job brought.

A network bounds what it returns, whatever it is given, as long as that is a number. So a row's program is run on the
largest values that a network plausibly returns, in double precision: what exceeds the range of the type that the device
computes with, the job brought along.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from trt_worker.denoise.program import CONDITIONAL, NOISE, REGISTERS, TENSORS, UNCONDITIONAL, FoldedProgram, X
from trt_worker.device.row import Row

_LARGEST_STATE = float(np.finfo(np.float32).max)
"""Registers are kept in single precision, whatever the network computes with."""

_LARGEST_SQUARED = _LARGEST_STATE**0.5
"""Normalisations square their inputs, in single precision."""


def overflow(row: Row, value: np.dtype[Any]) -> str:
    """Which of a row's own numbers a type cannot hold, in an operator's words; empty: it can hold all.

    Args: value: the type of the denoiser's inputs.
    """
    most = min(float(ml_dtypes.finfo(value).max), _LARGEST_SQUARED)  # type: ignore[no-untyped-call]
    program = row.program
    if not all(np.isfinite(numbers).all() for numbers in (program.mix, program.c_in, program.timestep)):
        return "its sampler's coefficients are not finite"
    # Of what stays the same only text can be that large: weights multiply it.
    given = [values for half in row.halves for values in half.inputs.values()]
    largest = max((float(np.abs(values).max(initial=0.0)) for values in given), default=0.0)
    if not largest <= most:
        return f"the weights of its prompt give {largest:.3g}, and {value} takes {most:.3g}"
    if not float(np.abs(row.start).max(initial=0.0)) < np.inf:
        return "the sample that it starts with is not finite"
    state, fed = _reach(program, float(np.abs(row.start).max(initial=0.0)))
    if not state <= _LARGEST_STATE:
        return f"its sampler and guidance drive the sample to {state:.3g}"
    if not fed <= most:
        return f"its sampler and guidance give {fed:.3g} to the network, and {value} takes {most:.3g}"
    return ""


def _reach(program: FoldedProgram, start: float) -> tuple[float, float]:
    """The largest register and the largest input of the network, for outputs of unit size whose signs alternate.

    Alternating signs show what differences between stages are multiplied with, and what guidance does to two halves
    that contradict each other.
    """
    tensors = np.zeros(TENSORS)
    tensors[X] = start
    state = given = start
    given *= abs(float(program.c_in[0])) if len(program.c_in) else 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        for stage, mix in enumerate(program.mix.astype(np.float64)):
            given = max(given, abs(float(program.c_in[stage]) * tensors[X]))
            sign = -1.0 if stage % 2 else 1.0
            tensors[CONDITIONAL], tensors[UNCONDITIONAL], tensors[NOISE] = sign, -sign, sign
            tensors[:REGISTERS] = mix @ tensors
            state = max(state, float(np.abs(tensors[:REGISTERS]).max()))
    return state, given
