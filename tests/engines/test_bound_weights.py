"""Where weights lie, written to a file beside them and read again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from trt_engines.bound_weights import (
    MOST_BYTES,
    BoundNetwork,
    BoundTensor,
    Piece,
    bindings,
    digest,
    float32_values,
    read_bindings,
)
from trt_engines.errors import ModelUnusable

WEIGHTS, SIDE = Path("unet/weights.safetensors"), Path("side.safetensors")
FLOAT8 = np.arange(16, dtype=np.float32).reshape(4, 4).astype(ml_dtypes.float8_e4m3fn)


def some_tensors(folder: Path) -> tuple[BoundTensor, ...]:
    """One weight as it lies, one whose halves are swapped, one in float8 with a scale for each block."""
    weights, side = folder / WEIGHTS, folder / SIDE
    weights.parent.mkdir(exist_ok=True)
    halves, values = np.arange(8, dtype=np.float16), np.array([3, 4, 1, 2], np.float32)
    weights.write_bytes(bytes(8) + halves.tobytes() + bytes(8) + values.tobytes() + bytes(32) + FLOAT8.tobytes())
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


def write(folder: Path, tensors: tuple[BoundTensor, ...], config: Mapping[str, Any] | None = None) -> Path:
    file = folder / "denoiser.weights.json"
    file.write_bytes(bindings(tensors, {folder / name: str(name) for name in (WEIGHTS, SIDE)}, config))
    return file


@pytest.mark.parametrize("config", [None, {"block_out_channels": [32, 64], "eps": 1e-5, "rope": {"theta": 1e6}}])
def test_bindings_that_were_written_are_read_as_they_were(tmp_path: Path, config: Mapping[str, Any] | None) -> None:
    tensors = some_tensors(tmp_path)

    assert read_bindings(write(tmp_path, tensors, config)) == BoundNetwork(config=config, tensors=tensors)


def test_bindings_do_not_depend_on_where_the_folder_is(tmp_path: Path) -> None:
    texts = []
    for place, config in (("here", {"b": 1, "a": (2, 3)}), ("there", {"a": (2, 3), "b": 1})):
        (tmp_path / place).mkdir()
        texts.append(write(tmp_path / place, some_tensors(tmp_path / place), config).read_bytes())

    assert texts[0] == texts[1]


def test_values_are_joined_in_the_weight_s_order_and_multiplied_with_their_block_s_scale(tmp_path: Path) -> None:
    plain, swapped, scaled = map(float32_values, some_tensors(tmp_path))

    assert plain.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert swapped.tolist() == [1, 2, 3, 4]
    assert (scaled[:, :, 0] == FLOAT8.astype(np.float32) * [0.5, 0.5, 2, 2]).all()


def test_a_weight_at_an_odd_byte_has_its_values(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"?" + np.array([1.5, -2.0], np.float32).tobytes())
    piece = Piece(file=tmp_path / "weights", offset=1, length=8)

    assert float32_values(BoundTensor(name="model.a", dtype="F32", shape=(2,), pieces=(piece,))).tolist() == [1.5, -2.0]


def _files(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda described: described.update(files=[name, str(SIDE)])


def _tensor(number: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda described: described["tensors"][number].update(changes)


def at(offset: int, length: int, file: int = 0) -> dict[str, int]:
    return {"file": file, "offset": offset, "length": length}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda described: described.update(more=1), "more"),
        (lambda described: described.pop("tensors"), "tensors"),
        (_files("../secret"), "inside the model's folder"),
        (_files("/etc/passwd"), "inside the model's folder"),
        (_files("gone"), "names gone, which is not there"),
        (_files("unet"), "names unet, which is not there"),
        (_tensor(0, dtype="I8"), "'model.a' is of the unknown type 'I8'"),
        (_tensor(0, pieces=[at(-1, 16)]), "`int` >= 0"),
        (_tensor(0, pieces=[at(88, 16)]), "'model.a' ends behind byte 96, where its file does"),
        (_tensor(0, pieces=[at(8, 16, file=7)]), "lies in file 7 of 2"),
        (_tensor(0, pieces=[]), "length >= 1"),
        (_tensor(0, shape=[2, 5]), "has 16 bytes where its shape"),
        (_tensor(0, shape=[2**47] * 8), "has 16 bytes where its shape"),
        (_tensor(1, pieces=[at(40, 8), at(24, 8)]), "side by side in one file"),
        (_tensor(1, pieces=[at(40, 8), at(0, 8, file=1)]), "side by side in one file"),
        (_tensor(1, shape=[1, 4]), "equal parts of its first axis"),
        (_tensor(1, name="model.a"), "'model.a' is there twice"),
        (_tensor(1, scale=at(0, 4, file=1)), "'model.b' has scales, which no F32 has"),
        (_tensor(2, scale=None), "has a grid of scales, and no scales"),
        (_tensor(2, scale=at(0, 4, file=1)), "has 4 bytes of scales"),
        (_tensor(2, grid=[2, 1], shape=[1, 16]), "does not part"),
        (_tensor(2, grid=[2, 1], shape=[], pieces=[at(80, 1)]), "does not part"),
    ],
)
def test_bindings_that_cannot_be_worked_with_are_refused_by_file_and_weight(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    file = write(tmp_path, some_tensors(tmp_path))
    described = json.loads(file.read_bytes())
    change(described)
    file.write_text(json.dumps(described))

    with pytest.raises(ModelUnusable) as refused:
        read_bindings(file)

    assert str(file) in str(refused.value)
    assert complaint in str(refused.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b"[" * 100_000, b" " * (MOST_BYTES + 1)])
def test_what_is_no_file_of_bindings_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "denoiser.weights.json").write_bytes(text)

    with pytest.raises(ModelUnusable, match=r"denoiser\.weights\.json"):
        read_bindings(tmp_path / "denoiser.weights.json")


def test_bindings_that_are_gone_or_a_pipe_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ModelUnusable, match="gone: cannot be read"):
        read_bindings(tmp_path / "gone")
    with pytest.raises(ModelUnusable, match="is no file"):
        read_bindings(tmp_path / "pipe")


def test_a_digest_is_over_whole_weights_or_an_error(tmp_path: Path) -> None:
    tensor = some_tensors(tmp_path)[2]
    (tmp_path / WEIGHTS).write_bytes(bytes(90))

    with pytest.raises(OSError, match="ends before its weights do"):
        digest([tensor])
