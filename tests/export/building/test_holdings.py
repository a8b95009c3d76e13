"""Every network is bound to its full list of weights before anything is exported."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from trt_engines.architectures.registry import architecture
from trt_export.building.holdings import holdings
from trt_export.building.located import Located
from trt_export.building.source import Source, open_located
from trt_export.checkpoints.random_checkpoint import describe, random_tensors
from trt_export.checkpoints.safetensors_file import SIZES
from trt_export.estimates import weights_of

Described = dict[str, tuple[str, tuple[int, ...]]]


def a_source(file: Path, family: str) -> Source:
    return open_located(Located(name="model", path=file, family=family))


def size_of(described: Described, beginning: str) -> int:
    return sum(
        math.prod(shape) * SIZES[word] for name, (word, shape) in described.items() if name.startswith(beginning)
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float8"])
def test_what_a_file_holds_of_each_network_is_counted_in_the_bytes_that_it_has(
    tmp_path: Path, dtype: str, file_with_holes: Callable[..., None]
) -> None:
    described = describe(random_tensors(architecture("sdxl")), dtype)
    file = tmp_path / "model.safetensors"
    file_with_holes(file, described)

    found = holdings(a_source(file, "sdxl"))

    assert found.problems == {}
    denoiser = found.stored["denoiser"]
    assert denoiser.size == size_of(described, "model.diffusion_model.")
    assert denoiser.types == {"float16": {"F16"}, "float32": {"F32"}, "float8": {"F16", "F8_E4M3"}}[dtype]


@pytest.mark.parametrize(
    ("dtype", "read", "held"), [("float16", 2.0, 2.0), ("float32", 4.0, 2.0), ("float8", 1.1, 1.1)]
)
def test_a_build_reads_what_is_stored_and_the_engine_holds_float8_as_it_is_and_the_rest_in_its_own_type(
    tmp_path: Path, dtype: str, read: float, held: float, file_with_holes: Callable[..., None]
) -> None:
    file = tmp_path / "model.safetensors"
    file_with_holes(file, describe(random_tensors(architecture("flux_schnell"), networks=["denoiser"]), dtype))
    source = a_source(file, "flux_schnell")

    weights = weights_of(
        source.architecture.network("denoiser"), "bfloat16", holdings(source, ["denoiser"]).stored["denoiser"]
    )

    assert weights.stored_bytes / weights.count == pytest.approx(read, rel=0.1)
    assert weights.engine_bytes / weights.count == pytest.approx(held, rel=0.1)


def test_what_cannot_be_bound_is_told_of_every_network_and_looked_for_in_those_that_are_asked_for(
    tmp_path: Path, file_with_holes: Callable[..., None]
) -> None:
    described = describe(random_tensors(architecture("stable_diffusion_1")), "float16")
    text = next(name for name in described if name.endswith("layers.3.mlp.fc1.weight"))
    decoder = next(name for name in described if name.endswith("decoder.conv_out.weight"))
    del described[text]
    described[decoder] = ("I8", described[decoder][1])
    file = tmp_path / "model.safetensors"
    file_with_holes(file, described)
    source = a_source(file, "stable_diffusion_1")

    found = holdings(source)

    assert found.stored.keys() == {"denoiser", "vae_encoder"}
    assert f"{text!r} (3072, 768) is missing" in found.problems["text_encoder"]
    assert "stored as int8, which engines do not read" in found.problems["vae_decoder"]
    assert holdings(source, ["denoiser"]).problems == {}


def test_a_network_that_no_file_is_for_is_a_problem_of_its_own(
    tmp_path: Path, file_with_holes: Callable[..., None]
) -> None:
    described = describe(random_tensors(architecture("stable_diffusion_1"), networks=["denoiser"]), "float16")
    file = tmp_path / "unet.safetensors"
    file_with_holes(file, described)

    found = holdings(a_source(file, "stable_diffusion_1"))

    assert found.stored.keys() == {"denoiser"}
    assert found.problems.keys() == {"text_encoder", "vae_decoder", "vae_encoder"}


def test_a_part_that_was_opened_as_a_file_of_its_own_is_bound_there(
    tmp_path: Path, file_with_holes: Callable[..., None]
) -> None:
    tensors = random_tensors(architecture("stable_diffusion_1"), networks=["denoiser"])
    one, other = tmp_path / "all.safetensors", tmp_path / "unet.safetensors"
    for file, dtype in ((one, "float16"), (other, "float32")):
        file_with_holes(file, describe(tensors, dtype))
    located = Located(name="m", path=one, family="stable_diffusion_1", networks=(("denoiser", other),))

    found = holdings(open_located(located), ["denoiser"])

    assert found.stored["denoiser"].types == {"F32"}
