"""Architectures are told by their denoisers' tensors; what is of none gets the nearest named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from trt_engines.architectures.registry import ARCHITECTURES
from trt_engines.modules.registry import module_of
from trt_export.checkpoints.checkpoint import Checkpoint
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.random_checkpoint import parameters_of, published
from trt_export.checkpoints.safetensors_file import StoredTensor, UnreadableCheckpoint
from trt_export.checkpoints.signatures import SIGNATURES, TWINS, detect

DETECTED = {twin: name for name, twins in TWINS.items() for twin in twins}


def a_checkpoint(shapes: Mapping[str, tuple[int, ...]], prefix: str = "") -> Checkpoint:
    file = Path("model.safetensors")
    tensors = {
        prefix + name: StoredTensor(file=file, name=prefix + name, dtype="F16", shape=shape, offset=0, length=0)
        for name, shape in shapes.items()
    }
    return Checkpoint(path=file, parts={"": tensors})


@pytest.mark.parametrize("name", [one.name for one in ARCHITECTURES])
def test_every_architecture_is_told_by_its_librarys_names(name: str) -> None:
    found = detect(a_checkpoint(parameters_of(module_of(name, "denoiser"))))

    assert found == DETECTED.get(name, name)


@pytest.mark.parametrize("name", [one.name for one in ARCHITECTURES if key_maps(one.name, "denoiser")])
def test_every_architecture_is_told_by_its_published_names(name: str) -> None:
    table = key_maps(name, "denoiser")[0]
    stored = published(parameters_of(module_of(name, "denoiser")), table)

    found = detect(a_checkpoint({key: one.shape for key, one in stored.items()}, table.prefixes[0]))

    assert found == DETECTED.get(name, name)


@pytest.mark.parametrize("number", range(len(SIGNATURES)))
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_a_signature_is_never_anothers(number: int, prefix: str) -> None:
    signature = SIGNATURES[number]

    assert detect(a_checkpoint(signature.tensors, prefix)) == signature.architecture


def test_a_relative_that_takes_other_inputs_is_named_with_what_differs() -> None:
    shapes = dict(next(one for one in SIGNATURES if one.architecture == "sdxl").tensors)
    shapes["input_blocks.0.0.weight"] = (320, 9, 3, 3)

    with pytest.raises(UnreadableCheckpoint) as caught:
        detect(a_checkpoint(shapes, "model.diffusion_model."))

    first = "model.diffusion_model.input_blocks.0.0.weight"
    assert f"nearest is sdxl in the ldm layout, but {first} is (320, 9, 3, 3) and not (320, 4, 3, 3)" in str(
        caught.value
    )
    assert "--architecture" in str(caught.value)


def test_a_file_of_something_else_is_told_as_that() -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"none of the names .* is among its 1 tensors\. Known are stable"):
        detect(a_checkpoint({"lora_unet_down_blocks_0.alpha": (1,)}))
