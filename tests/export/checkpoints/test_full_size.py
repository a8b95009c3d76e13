"""Files of full size, with holes for weights: told, bound, and what has to be written for one more of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trt_export.architectures.registry import ARCHITECTURES, architecture
from trt_export.checkpoints.binding import PREFIX, bind
from trt_export.checkpoints.checkpoint import open_checkpoint
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.random_checkpoint import describe, parameters_of, random_tensors
from trt_export.checkpoints.signatures import TWINS, detect

SECOND = {twin for twins in TWINS.values() for twin in twins}
NAMES = [
    one.name
    for one in ARCHITECTURES
    if one.name not in SECOND and all(key_maps(one.name, part.name) for part in one.components)
]
LARGEST_SIDE_FILES = 50_000_000
"""Bytes beside its engines that a further checkpoint may cost."""


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_all_networks_is_told_and_bound_in_place_but_for_a_small_side_file(
    tmp_path: Path, name: str, file_with_holes: Callable[..., None]
) -> None:
    tensors = random_tensors(architecture(name))
    shapes = {
        component.name: {PREFIX + key: shape for key, shape in parameters_of(component).items()}
        for component in architecture(name).components
    }

    for dtype in ("bfloat16", "float8"):  # float16 costs what bfloat16 does, float32 at most twice that
        file = tmp_path / f"{dtype}.safetensors"
        file_with_holes(file, describe(tensors, dtype))
        checkpoint = open_checkpoint(file)

        assert detect(checkpoint) == name
        for component, wanted in shapes.items():
            side = tmp_path / f"{dtype}-{component}.side"
            bound = bind(wanted, checkpoint.of(component), key_maps(name, component), side)
            assert {one.name: one.shape for one in bound} == wanted
            assert all(one.scale is not None for one in bound if one.dtype == "F8_E4M3")
        assert sum(side.stat().st_size for side in tmp_path.glob(f"{dtype}-*.side")) <= LARGEST_SIDE_FILES
