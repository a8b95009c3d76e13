"""Noise levels and times of a network, against PyTorch's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trt_worker.denoise.parameterisation import cascade

OFFSET = torch.tensor(8e-3)
START = torch.cos(OFFSET / (1 + OFFSET) * torch.pi * 0.5) ** 2


def cascade_sigmas(times: torch.Tensor, shift: float) -> torch.Tensor:
    """The cosine schedule of Stable Cascade with its shifted signal-to-noise ratio, in float32."""
    kept = torch.cos((times + OFFSET) / (1 + OFFSET) * torch.pi * 0.5) ** 2 / START
    if shift != 1:
        kept = torch.sigmoid(torch.log(kept / (1 - kept)) - 2 * torch.log(torch.tensor(shift)))
    kept = kept.clamp(0.0001, 0.9999)
    return torch.sqrt((1 - kept) / kept)


def cascade_times(sigmas: torch.Tensor) -> torch.Tensor:
    """Its inverse at shift 1, which is what the network is told at any shift."""
    kept = 1 / (sigmas * sigmas + 1)
    return torch.arccos(torch.sqrt(kept * START)) / (torch.pi * 0.5) * (1 + OFFSET) - OFFSET


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_cascade_is_told_the_time_that_float32_arithmetic_gives(shift: float) -> None:
    levels = cascade(shift)

    told = np.array([levels.timestep(float(sigma)) for sigma in levels.table])
    expected = cascade_times(torch.tensor(levels.table, dtype=torch.float32)).double().numpy()

    assert (told == expected).mean() > 0.9  # the rest is functions that PyTorch rounds otherwise in their last bit
    assert np.abs(told - expected).max() < 4e-7


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_the_levels_of_cascade_are_those_of_float32_arithmetic(shift: float) -> None:
    expected = cascade_sigmas(torch.arange(1, 10_001, dtype=torch.float64).div(10_000).float(), shift).double().numpy()

    same = cascade(shift).table == expected

    assert same.mean() > 0.9
    np.testing.assert_allclose(cascade(shift).table, expected, rtol=1e-3)
