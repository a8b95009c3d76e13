"""What a library tells of memory while it builds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trt_engines.builders.builder import BuildRequest, keep_going
from trt_engines.builders.device_memory import tells_memory, told_memory
from trt_engines.builders.tensorrt_rtx import TensorRtRtx
from trt_engines.store.identity import InputRange
from trt_engines.store.manifest import DeviceMemory

LINES = ["Total Activation Memory: 20 bytes", "Total Activation Memory: 58 bytes", "Total Weights Memory: 4 bytes"]


def test_activations_are_told_for_each_profile_and_weights_once() -> None:
    assert told_memory(LINES, 2) == DeviceMemory(weights=4, activations=(20, 58))
    assert told_memory(LINES[1:], 0) == DeviceMemory(weights=4, activations=(58,))


@pytest.mark.parametrize(("lines", "profiles"), [([], 1), (LINES, 1), (LINES, 3), (LINES[:2], 2)])
def test_where_it_is_not_told_of_every_profile_nothing_is_known(lines: list[str], profiles: int) -> None:
    assert told_memory(lines, profiles) is None


def test_other_lines_are_of_no_use() -> None:
    assert not any(map(tells_memory, ("Max Scratch Memory: 20 bytes", "Total Weights Memory: many bytes", "")))


def test_rtx_tells_without_a_card_what_each_profile_takes(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    profiles = tuple(
        (InputRange(name="x", min=(1, 4, 8, 8), opt=(rows, 4, 64, 64), max=(rows, 4, 64, 64)),) for rows in (1, 16)
    )
    request = request_for(profiles=profiles, compute_capabilities=(86, 89))

    memory = TensorRtRtx().build(request, tmp_path / "plan", keep_going).memory

    assert memory is not None
    assert memory.weights >= 8 * 4 * 3 * 3 * 2
    assert len(memory.activations) == 2
    assert memory.activations[0] < memory.activations[1]
