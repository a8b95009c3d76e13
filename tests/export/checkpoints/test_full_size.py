"""Files of full size, with holes for weights: told, bound, and what has to be written for one more of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trt_engines.architectures.registry import ARCHITECTURES, architecture
from trt_engines.modules.registry import MODULES
from trt_export.checkpoints.binding import PREFIX, bind
from trt_export.checkpoints.checkpoint import open_checkpoint
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.random_checkpoint import Published, describe, parameters_of, published, random_tensors
from trt_export.checkpoints.signatures import TWINS, detect

SECOND = {twin for twins in TWINS.values() for twin in twins}
NAMES = [
    one.name
    for one in ARCHITECTURES
    if one.name not in SECOND
    and len(one.denoisers) == 1  # two denoisers have their tensors by the same names, and so are not in one file
    and all(key_maps(one.name, part.name) for part in one.networks)
]
LARGEST_SIDE_FILES = 50_000_000
"""Bytes beside its engines that a further checkpoint may cost."""


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_all_networks_is_told_and_bound_in_place_but_for_a_small_side_file(
    tmp_path: Path, name: str, file_with_holes: Callable[..., None]
) -> None:
    tensors = random_tensors(architecture(name))
    shapes = {spec.name: {PREFIX + key: shape for key, shape in parameters_of(spec).items()} for spec in MODULES[name]}

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


@pytest.mark.parametrize(
    ("name", "files", "dtype"),
    [
        ("z_image_turbo", ("z_image_turbo_bf16", "qwen_3_4b", "ae"), "bfloat16"),
        ("flux2_klein_4b", ("flux-2-klein-4b", "qwen_3_4b", "flux2-vae"), "bfloat16"),
        ("krea_2_turbo", ("krea2_turbo_fp8", "qwen3vl_4b_fp8_scaled", "qwen_image_vae"), "float8"),
    ],
)
def test_files_of_single_networks_that_lie_in_one_folder_are_one_model(
    tmp_path: Path, name: str, files: tuple[str, ...], dtype: str, file_with_holes: Callable[..., None]
) -> None:
    prefixes = {"denoiser": "", "text_encoder": "model.", "vae_decoder": "", "vae_encoder": ""}
    networks: dict[str, dict[str, Published]] = {"denoiser": {}, "text_encoder": {}, "vae_decoder": {}}
    for spec in MODULES[name]:
        own = published(parameters_of(spec), key_maps(name, spec.name)[0])
        file = networks[spec.name.replace("vae_encoder", "vae_decoder")]
        file.update({prefixes[spec.name] + key: one for key, one in own.items()})
    sign = {"scaled_fp8": ("F8_E4M3", (2,))} if dtype == "float8" else {}
    for file_name, tensors in zip(files, networks.values(), strict=True):
        file_with_holes(tmp_path / f"{file_name}.safetensors", describe(tensors, dtype) | sign)

    checkpoint = open_checkpoint(tmp_path)

    assert detect(checkpoint) == name
    for spec in MODULES[name]:
        wanted = {PREFIX + key: shape for key, shape in parameters_of(spec).items()}
        bound = bind(wanted, checkpoint.of(spec.name), key_maps(name, spec.name), tmp_path / "side")
        assert {one.name: one.shape for one in bound} == wanted
