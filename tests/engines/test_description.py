"""What a model.json may say, and what becomes of a folder whose file says something else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trt_engines.errors import ModelUnusable
from trt_engines.model import BUILT_IN, find_models, read_model

Change = Callable[[dict[str, Any]], object]


def a_folder(tmp_path: Path, change: Change = lambda said: None, name: str = "model") -> Path:
    """The shipped model, linked to, with a description of its own that was changed."""
    folder = shutil.copytree(BUILT_IN / "shapes-tiny", tmp_path / name, copy_function=os.symlink)
    said = json.loads((folder / "model.json").read_text())
    (folder / "model.json").unlink()
    change(said)
    (folder / "model.json").write_text(json.dumps(said))
    return folder


def setting(field: str, value: object) -> Change:
    def change(said: dict[str, Any]) -> None:
        *groups, last = field.split(".")
        for group in groups:
            said = said[group]
        said[last] = value

    return change


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("native_width", 0),
        ("native_height", 2**20),
        ("native_height", 129),
        ("shift", 0),
        ("shift", -1.5),
        ("shift", 1e300),
        ("name", ""),
        ("name", "n" * 300),
        ("name", "two\nlines"),
        ("name", " space around"),
        ("architecture", "a" * 300),
        ("prediction", ""),
        ("files.checkpoint", "f" * 300),
        ("networks.denoiser.bindings", "/etc/passwd"),
        ("networks.denoiser.graph", "unet/../../../denoiser.onnx"),
        ("networks.denoiser.weights", []),
        ("networks.denoiser.weights", [""]),
        ("networks.denoiser.weights", ["w" * 300]),
        ("networks.vae_decoder.weights", ["a\0b"]),
        ("networks.denoiser.digest", "no digest"),
        ("networks.denoiser.parameters", 0),
        ("digests", {"denoiser.onnx": "no digest"}),
        ("digests", {"../weights": "0" * 64}),
    ],
)
def test_what_no_model_has_is_refused_by_file_and_field(tmp_path: Path, field: str, value: object) -> None:
    folder = a_folder(tmp_path, setting(field, value))

    with pytest.raises(ModelUnusable) as refused:
        read_model(folder)

    assert str(folder / "model.json") in str(refused.value)
    assert field.rpartition(".")[0].partition(".")[0] in str(refused.value) or field in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", [b'{"name": "\xff"}', b'{"name": "\\ud800"}', b"[" * 10**5, b" " * 2**21, b"\x00"])
def test_bytes_that_are_no_description_are_refused(tmp_path: Path, text: bytes) -> None:
    folder = a_folder(tmp_path)
    (folder / "model.json").write_bytes(text)

    with pytest.raises(ModelUnusable, match=r"model\.json"):
        read_model(folder)


def test_a_description_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.json")

    with pytest.raises(ModelUnusable, match="is no file"):
        read_model(tmp_path)


def test_a_folder_that_cannot_be_used_is_passed_over_and_told_of(tmp_path: Path) -> None:
    a_folder(tmp_path, setting("name", "sound"), name="1")
    a_folder(tmp_path, setting("native_width", 0), name="2")
    a_folder(tmp_path, setting("name", "sound as well"), name="3")
    told: list[ModelUnusable] = []

    found = find_models([tmp_path], unusable=told.append)

    assert set(found) == {"shapes-tiny", "sound", "sound as well"}
    assert len(told) == 1
    assert "native_width" in str(told[0])


def test_without_anybody_to_tell_a_folder_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    a_folder(tmp_path, setting("native_width", 0))

    with pytest.raises(ModelUnusable):
        find_models([tmp_path])


def test_two_readings_of_one_folder_say_the_same_and_another_shift_does_not(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    first = read_model(folder)
    (folder / "model.json").write_text((folder / "model.json").read_text().replace("{", '{"shift": 3.0, ', 1))

    assert first.same_as(first)
    assert not first.same_as(read_model(folder))
