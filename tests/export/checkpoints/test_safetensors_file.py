"""Headers are read without the data, and nothing that they claim is believed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint, Values, encode, read_bytes, read_header


def _write(file: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return file


def test_a_file_of_the_formats_own_library_is_read_to_the_byte(tmp_path: Path) -> None:
    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, np.float16)}
    save_file(values, tmp_path / "w.safetensors", metadata={"format": "pt"})

    tensors = read_header(tmp_path / "w.safetensors")

    assert {name: (one.dtype, one.shape) for name, one in tensors.items()} == {"a": ("F32", (2, 3)), "b": ("F16", (5,))}
    assert read_bytes(tensors["a"]) == values["a"].tobytes()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "side.safetensors"
    file.write_bytes(b"".join(encode({"x": Values(dtype="BF16", shape=(2, 1), data=b"abcd")})))

    tensor = read_header(file)["x"]

    assert (tensor.dtype, tensor.shape, read_bytes(tensor)) == ("BF16", (2, 1), b"abcd")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"absent\.safetensors cannot be read: No such file"):
        read_header(tmp_path / "absent.safetensors")


def test_a_download_that_stopped_early_is_told_by_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"a": np.zeros(100, np.float32)}, file)
    file.write_bytes(file.read_bytes()[:-40])

    with pytest.raises(
        UnreadableCheckpoint, match="'a' ends 40 bytes after the file does: the download was not complete"
    ):
        read_header(file)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, r"its shape \(3,\) in F32 does not take 0..8 bytes"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}, "does not take"),
        ({"dtype": "Q4", "shape": [2], "data_offsets": [0, 8]}, "of type 'Q4'; known are"),
        ({"dtype": "F32", "shape": [2]}, "is not described as the format asks"),
        ("F32", "is not described as the format asks"),
    ],
)
def test_a_lying_entry_is_an_error_that_names_the_tensor(tmp_path: Path, entry: object, reason: str) -> None:
    file = _write(tmp_path / "w.safetensors", {"a": entry}, b"12345678")

    with pytest.raises(UnreadableCheckpoint, match=f"the tensor 'a'.*{reason}"):
        read_header(file)


@pytest.mark.parametrize("data", [b"", b"1234", b"\xff" * 16, (5).to_bytes(8, "little") + b"[1,2]"])
def test_what_is_no_safetensors_file_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(data)

    with pytest.raises(UnreadableCheckpoint, match="is no safetensors file"):
        read_header(tmp_path / "w.safetensors")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-10, 10**20) | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a"]), inner, max_size=4)
        ),
        max_leaves=12,
    ),
    st.binary(max_size=16),
)
def test_any_header_is_an_answer_or_a_clear_error(tmp_path: Path, header: object, data: bytes) -> None:
    file = _write(tmp_path / "w.safetensors", {"a": header}, data)

    try:
        tensors = read_header(file)
    except UnreadableCheckpoint:
        tensors = {}

    assert all(one.offset + one.length <= file.stat().st_size for one in tensors.values())
