"""Where weights lie, written to a file beside them and read again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_engines.bound_weights import (
    MOST_BYTES,
    BoundNetwork,
    BoundTensor,
    Piece,
    digest,
    float32_values,
    read_bindings,
    write_bindings,
)
from trt_engines.errors import ModelUnusable

SIZE = 96


def some_tensors(folder: Path) -> tuple[BoundTensor, ...]:
    """One weight as it lies, one whose halves are swapped, one in float8 with a scale for each block."""
    weights, side = folder / "unet" / "weights.safetensors", folder / "side.safetensors"
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(np.arange(SIZE, dtype=np.uint8).tobytes())
    side.write_bytes(np.array([[0.5, 2.0]], np.float32).tobytes())
    return (
        BoundTensor(name="model.a", dtype="F16", shape=(2, 4), pieces=(Piece(file=weights, offset=8, length=16),)),
        BoundTensor(
            name="model.b",
            dtype="F32",
            shape=(4,),
            pieces=(Piece(file=weights, offset=40, length=8), Piece(file=weights, offset=32, length=8)),
        ),
        BoundTensor(
            name="model.c",
            dtype="F8_E4M3",
            shape=(4, 4, 1),
            pieces=(Piece(file=weights, offset=80, length=16),),
            scale=Piece(file=side, offset=0, length=8),
            grid=(1, 2),
        ),
    )


@pytest.mark.parametrize("config", [None, {"block_out_channels": [32, 64], "eps": 1e-5, "rope": {"theta": 1e6}}])
def test_bindings_that_were_written_are_read_as_they_were(tmp_path: Path, config: Mapping[str, Any] | None) -> None:
    tensors = some_tensors(tmp_path)

    write_bindings(tmp_path / "denoiser.json", config, tensors)

    assert read_bindings(tmp_path / "denoiser.json") == BoundNetwork(config=config, tensors=tensors)


def test_a_folder_that_was_moved_has_its_weights_with_it_and_the_same_bytes(tmp_path: Path) -> None:
    texts = []
    for place in ("here", "there"):
        folder = tmp_path / place
        folder.mkdir()
        write_bindings(folder / "denoiser.json", {"b": 1, "a": (2, 3)}, some_tensors(folder))
        texts.append((folder / "denoiser.json").read_bytes())

    assert texts[0] == texts[1]


def test_weights_outside_of_the_folder_are_not_written_down(tmp_path: Path) -> None:
    tensors = some_tensors(tmp_path)
    (tmp_path / "model").mkdir()

    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        write_bindings(tmp_path / "model" / "denoiser.json", None, tensors)


def test_a_link_into_the_folder_lies_there(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (tmp_path / "checkpoint").write_bytes(bytes(8))
    (model / "weights").symlink_to(tmp_path / "checkpoint")
    piece = Piece(file=model / "weights", offset=0, length=8)
    tensor = BoundTensor(name="model.a", dtype="F32", shape=(2,), pieces=(piece,))

    write_bindings(model / "denoiser.json", None, [tensor])

    assert read_bindings(model / "denoiser.json").tensors == (tensor,)


def _first_file(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda described: described.update(files=[name, "side.safetensors"])


def _tensor(number: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda described: described["tensors"][number].update(changes)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda described: described.update(more=1), "more"),
        (lambda described: described.pop("config"), "config"),
        (
            lambda described: described.update(files=["../secret", "side.safetensors"]),
            r"files\[0\].*inside the model's",
        ),
        (
            lambda described: described.update(files=["/etc/passwd", "side.safetensors"]),
            r"files\[0\].*inside the model's",
        ),
        (
            lambda described: described.update(files=["gone", "side.safetensors"]),
            r"files\[0\]: names gone, which is not",
        ),
        (
            lambda described: described.update(files=["unet", "side.safetensors"]),
            r"files\[0\]: names unet, which is not",
        ),
        (_tensor(0, dtype="I8"), r"tensors\[0\] \(model\.a\)\.dtype: is 'I8'"),
        (_tensor(0, pieces=[[0, -1, 16]]), "`int` >= 0"),
        (_tensor(0, pieces=[[0, 88, 16]]), r"tensors\[0\].*pieces: ends 8 bytes after its file does"),
        (_tensor(0, pieces=[[7, 8, 16]]), r"pieces: is in file 7 of 2"),
        (_tensor(0, pieces=[]), "length >= 1"),
        (_tensor(0, shape=[2, 5]), r"pieces: are not the bytes of \(2, 5\) in F16"),
        (_tensor(0, shape=[2**47] * 8), "are not the bytes of"),
        (_tensor(1, pieces=[[0, 40, 8], [0, 24, 8]]), "side by side"),
        (_tensor(1, pieces=[[0, 40, 8], [1, 0, 8]]), "side by side"),
        (_tensor(1, shape=[1, 4]), "equal parts of the first axis"),
        (_tensor(1, name="model.a"), r"tensors\[1\]\.name: 'model\.a' is there twice"),
        (_tensor(1, scale=[1, 0, 4]), "scale: F32 has none"),
        (_tensor(2, scale=None), "grid: is of scales"),
        (_tensor(2, scale=[1, 0, 4]), "scale: is not one float32 for each block"),
        (_tensor(2, grid=[2, 1], shape=[1, 16]), r"grid: \(2, 1\) does not part \(1, 16\)"),
    ],
)
def test_bindings_that_cannot_be_worked_with_are_refused_with_file_and_field(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    file = tmp_path / "denoiser.json"
    write_bindings(file, None, some_tensors(tmp_path))
    described = json.loads(file.read_bytes())
    change(described)
    file.write_text(json.dumps(described))

    with pytest.raises(ModelUnusable, match=rf"denoiser\.json: .*{complaint}"):
        read_bindings(file)


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b"[" * 100_000, b" " * (MOST_BYTES + 1)])
def test_what_is_no_file_of_bindings_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "denoiser.json").write_bytes(text)

    with pytest.raises(ModelUnusable, match=r"denoiser\.json"):
        read_bindings(tmp_path / "denoiser.json")


def test_bindings_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"denoiser\.json: cannot be read"):
        read_bindings(tmp_path / "denoiser.json")


def test_a_file_that_ends_before_its_weights_do_is_an_error_and_no_crash(tmp_path: Path) -> None:
    tensor = some_tensors(tmp_path)[2]
    tensor.pieces[0].file.write_bytes(bytes(90))

    for read in (float32_values, lambda one: digest([one])):
        with pytest.raises(OSError, match="ends before its weights do"):
            read(tensor)
