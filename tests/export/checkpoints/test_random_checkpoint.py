"""Random checkpoints are the same for the same seed, are laid out as published files, and bind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from trt_engines.architectures.registry import architecture
from trt_engines.modules.registry import MODULES
from trt_export.checkpoints.binding import PREFIX, bind
from trt_export.checkpoints.checkpoint import open_checkpoint
from trt_export.checkpoints.keymap import Change, Entry, KeyMap
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.random_checkpoint import (
    CHUNK,
    NoLayout,
    Published,
    parameters_of,
    published,
    random_tensors,
    write_random,
)
from trt_export.cli import app


def a_tensor(*shape: int) -> Published:
    return Published(parts={"x": shape}, change=Change.NONE)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("stable_diffusion_1", "float32"),
        ("stable_diffusion_2_inpainting", "bfloat16"),
        ("sdxl", "float8"),
        ("flux_schnell", "float16"),
        ("flux_dev", "float8"),
        ("chroma", "bfloat16"),
        ("z_image_turbo", "bfloat16"),
        ("flux2_klein_4b", "float8"),
        ("krea_2_turbo", "float8"),
    ],
)
def test_every_network_binds_to_a_small_random_checkpoint(tmp_path: Path, name: str, dtype: str) -> None:
    file = tmp_path / "model.safetensors"

    result = CliRunner().invoke(app, ["random-checkpoint", name, str(file), "--small", "--dtype", dtype])

    assert result.exit_code == 0, result.output
    checkpoint = open_checkpoint(file)
    for spec in MODULES[name]:
        shapes = {PREFIX + key: shape for key, shape in parameters_of(spec.small).items()}
        tables = key_maps(name, spec.name)
        bound = bind(shapes, checkpoint.of(spec.name), tables, tmp_path / f"{spec.name}.safetensors")
        assert {one.name: one.shape for one in bound} == shapes
        matrices = any(len(shape) == 2 for shape in shapes.values())
        assert any(one.scale for one in bound) == (dtype == "float8" and matrices)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for file, seed in zip(files, (5, 5, 6), strict=True):
        write_random(file, {"a.weight": a_tensor(8, 8), "a.bias": a_tensor(8)}, seed=seed, dtype="float16")

    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes() != files[2].read_bytes()


def test_a_tensor_does_not_depend_on_what_else_the_file_has(tmp_path: Path) -> None:
    write_random(tmp_path / "a.safetensors", {"x": a_tensor(4, 4), "y": a_tensor(4, 4)}, seed=0, dtype="float32")
    write_random(tmp_path / "b.safetensors", {"y": a_tensor(4, 4)}, seed=0, dtype="float32")

    assert torch.equal(load_file(tmp_path / "a.safetensors")["y"], load_file(tmp_path / "b.safetensors")["y"])


def test_a_layer_keeps_the_size_of_what_goes_through_it(tmp_path: Path) -> None:
    tensors = {"fc.weight": a_tensor(500, 2000), "conv.weight": a_tensor(300, 100, 3, 3), "norm.weight": a_tensor(900)}
    write_random(tmp_path / "w.safetensors", tensors, seed=0, dtype="float32")

    found = load_file(tmp_path / "w.safetensors")

    assert torch.nn.functional.linear(torch.randn(50, 2000), found["fc.weight"]).std() == pytest.approx(1, rel=0.05)
    assert found["conv.weight"].std() == pytest.approx(900**-0.5, rel=0.05)
    assert found["norm.weight"].mean() == pytest.approx(1, abs=0.01)


def test_float8_weights_times_their_scales_are_as_large_as_others(tmp_path: Path) -> None:
    write_random(tmp_path / "w.safetensors", {"fc.weight": a_tensor(200, 1000)}, seed=0, dtype="float8")

    found = load_file(tmp_path / "w.safetensors")

    assert found["fc.weight"].dtype == torch.float8_e4m3fn
    values = found["fc.weight"].float() * found["fc.scale_weight"]
    assert values.std() == pytest.approx(1000**-0.5, rel=0.05)
    assert bool(torch.isfinite(values).all())


def test_a_large_tensor_is_made_in_chunks_that_differ(tmp_path: Path) -> None:
    count = 2 * CHUNK + 10
    write_random(tmp_path / "w.safetensors", {"a": a_tensor(count)}, seed=0, dtype="float16")

    values = load_file(tmp_path / "w.safetensors")["a"].numpy()

    assert values.shape == (count,)
    assert (values[:10] != values[CHUNK : CHUNK + 10]).any()
    assert np.isfinite(values).all()


def test_an_architecture_without_a_known_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoLayout, match=r"no original layout is known for the text_encoder of Stable Diffusion 1\.5"):
        random_tensors(architecture("stable_diffusion_1"), small=True, tables=lambda family, component: ())


def test_a_table_that_lacks_a_weight_is_told() -> None:
    table = KeyMap(layout="ldm", prefixes=("",), entries=(Entry(stored="qkv", library=("q", "k", "v")),))

    with pytest.raises(NoLayout, match="the ldm layout has no place for the weight 'q'"):
        published({"q": (2, 2), "k": (2, 2)}, table)


@pytest.mark.parametrize(
    ("arguments", "reason"), [(("nonsense",), "no architecture 'nonsense'"), (("sdxl", "--dtype", "int4"), "int4")]
)
def test_the_command_says_what_it_does_not_know(tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    name, *options = arguments

    result = CliRunner().invoke(app, ["random-checkpoint", name, str(tmp_path / "x.safetensors"), *options])

    assert result.exit_code != 0
    assert reason in result.output
