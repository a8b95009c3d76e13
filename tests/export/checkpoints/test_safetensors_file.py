"""Headers are read without the data, and nothing that they claim is believed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
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


FLOATS = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        ({"a": FLOATS, "b": FLOATS | {"data_offsets": [4, 12]}}, 12, "'a' and 'b' overlap"),
        ({"a": FLOATS, "b": FLOATS}, 8, "'a' and 'b' overlap"),
        ({"a": FLOATS, "b": FLOATS | {"data_offsets": [9, 17]}}, 17, "data from byte .* on belongs to no tensor"),
        ({"a": FLOATS}, 9, "data from byte .* on belongs to no tensor"),
        ({"a": FLOATS | {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}, 2, "does not take 0..2 bytes"),
        ({"__metadata__": {"a": 1}}, 0, "__metadata__ is not an object of texts"),
    ],
)
def test_bytes_belong_to_one_tensor_each(tmp_path: Path, header: object, data: int, reason: str) -> None:
    file = _write(tmp_path / "w.safetensors", header, bytes(data))

    with pytest.raises(UnreadableCheckpoint, match=reason):
        read_header(file)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a":%b,"a":%b}', "'a' is there twice"),
        (b'{"\xe4":%b}', "not JSON in UTF-8"),
        (b'{"\\ud800":%b}', "not JSON in UTF-8"),
        (b'{"a":%b,"b":NaN}', "NaN is no number"),
    ],
)
def test_text_of_a_header_that_can_be_read_in_two_ways_is_refused(tmp_path: Path, text: bytes, reason: str) -> None:
    entry = json.dumps(FLOATS).encode()
    header = text.replace(b"%b", entry)
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))

    with pytest.raises(UnreadableCheckpoint, match=reason):
        read_header(tmp_path / "w.safetensors")


def test_a_shape_without_end_is_refused_at_once_and_not_repeated(tmp_path: Path) -> None:
    file = _write(tmp_path / "w.safetensors", {"a": FLOATS | {"shape": [3] * 100_000}}, bytes(8))

    with pytest.raises(UnreadableCheckpoint, match=r"does not take 0\.\.8 bytes") as caught:
        read_header(file)
    assert len(str(caught.value)) < 1000


def test_types_that_no_graph_reads_are_no_reason_to_refuse_the_others(tmp_path: Path) -> None:
    kinds = {"F8_E8M0": 1, "U64": 8, "F4": 0.5, "F6_E2M3": 0.75}
    header, end = {}, 0
    for word, size in kinds.items():
        header[word] = {"dtype": word, "shape": [4], "data_offsets": [end, end + int(4 * size)]}
        end += int(4 * size)
    file = _write(tmp_path / "w.safetensors", header, bytes(end))

    assert {one.dtype: one.length for one in read_header(file).values()} == {w: 4 * s for w, s in kinds.items()}


NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 8, 12, 16, -1, 2**32, 2**63, 2**64, 1.0, True, None, "2"])
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "U8", "F4", "F6_E2M3", "F8_E8M0", "U64", "C64", "Q4", 3]),
        "shape": st.lists(NUMBERS, max_size=3) | NUMBERS,
        "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3),
    },
    optional={"more": NUMBERS | st.lists(NUMBERS, max_size=2)},
)


@st.composite
def _sound(draw: st.DrawFn) -> dict[str, object]:
    """A header that is as it should be."""
    found: dict[str, object] = {}
    end = 0
    for number in range(draw(st.integers(0, 4))):
        word, size = draw(st.sampled_from([("F32", 4), ("F16", 2), ("U8", 1), ("U64", 8), ("F8_E8M0", 1)]))
        shape = draw(st.lists(st.integers(0, 3), max_size=2))
        length = int(np.prod(shape)) * size
        found[f"t{number}"] = {"dtype": word, "shape": shape, "data_offsets": [end, end + length]}
        end += length
    return found


@st.composite
def _files(draw: st.DrawFn) -> bytes:
    """A file whose header and data were changed somewhere, or not."""
    header = draw(_sound() | st.dictionaries(st.sampled_from(["t0", "a", "\u00e4"]), ENTRIES, max_size=3))
    if header and draw(st.booleans()):
        header[draw(st.sampled_from(sorted(header)))] = draw(ENTRIES)
    if draw(st.booleans()):
        notes = st.none() | st.just({}) | st.dictionaries(st.just("k"), st.text(max_size=2) | NUMBERS)
        header["__metadata__"] = draw(notes)
    text = bytearray(json.dumps(header, ensure_ascii=draw(st.booleans())).encode())
    for _ in range(draw(st.integers(0, 2))):
        text[draw(st.integers(0, len(text) - 1))] = draw(st.sampled_from(b'{}[],:"0179 \\ue\xff-.Ft'))
    ends = [
        max(one["data_offsets"])
        for one in header.values()
        if isinstance(one, dict) and "dtype" in one and all(type(at) is int for at in one["data_offsets"])
    ]
    room = min(max(ends, default=0), 64) + draw(st.sampled_from([0, 0, 0, 1, -1]))
    return len(text).to_bytes(8, "little") + bytes(text) + bytes(max(room, 0))


def _repeats(data: bytes) -> bool:
    """Whether an object of the header has a name twice, of which the reference reader takes the last."""
    found: list[bool] = []

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        found.append(len(dict(items)) < len(items))
        return dict(items)

    json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")], object_pairs_hook=pairs)
    return any(found)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_files())
def test_a_header_is_read_exactly_where_the_formats_own_reader_reads_it(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(data)
    try:
        expected = {name: (one["dtype"], tuple(one["shape"]), len(one["data"])) for name, one in deserialize(data)}
    except SafetensorError:
        expected = None

    try:
        found = {name: (one.dtype, one.shape, one.length) for name, one in read_header(file).items()}
    except UnreadableCheckpoint:
        found = None

    assert found == expected or (found is None and _repeats(data))
