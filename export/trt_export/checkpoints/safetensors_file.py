"""Safetensors files by their headers: where each tensor lies, without reading any."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one value, by the format's words for types."""

LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""


class UnreadableCheckpoint(Exception):
    """A checkpoint is missing, damaged or not what it says it is; the message names the file and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor as it lies in a file."""

    file: Path
    name: str
    dtype: str  # a key of SIZES
    shape: tuple[int, ...]
    offset: int  # from the start of the file
    length: int  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """A tensor to be written."""

    dtype: str  # a key of SIZES
    shape: tuple[int, ...]
    data: bytes


def encode(tensors: Mapping[str, Values]) -> tuple[bytes, ...]:
    """A safetensors file with these tensors, as pieces to write one after another."""
    header = encode_header({name: (values.dtype, values.shape) for name, values in tensors.items()})
    return (header, *(values.data for values in tensors.values()))


def encode_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """What a safetensors file begins with, of the type and shape of its tensors; their values follow in this order."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks for aligned data
    return len(text).to_bytes(8, "little") + text


def read_header(file: Path) -> Mapping[str, StoredTensor]:
    """The tensors of a safetensors file by name.

    Everything that a later read relies on is checked: types are known, lengths are what shapes ask for, and all of it
    lies within the file. Format: 8 bytes of header length (little endian), a JSON object, the data
    (huggingface.co/docs/safetensors).

    Raises: UnreadableCheckpoint.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = int.from_bytes(stream.read(8), "little")
            if size < 8 or head > min(size - 8, LARGEST_HEADER):
                raise UnreadableCheckpoint(
                    f"{file} is no safetensors file or is cut off: it has {size} bytes, its header {head}; "
                    "download it again"
                )
            text = stream.read(head)
    except OSError as exc:
        raise UnreadableCheckpoint(f"{file} cannot be read: {exc.strerror or exc}") from exc
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise UnreadableCheckpoint(f"{file} is no safetensors file: its header is not JSON ({exc})") from exc
    if not isinstance(described, dict):
        raise UnreadableCheckpoint(f"{file} is no safetensors file: its header is not a JSON object")
    found = {
        name: _tensor(file, name, entry, 8 + head, size) for name, entry in described.items() if name != "__metadata__"
    }
    return MappingProxyType(found)


def _tensor(file: Path, name: str, entry: Any, base: int, size: int) -> StoredTensor:
    where = f"{file}: the tensor {name!r}"
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        counted = all(type(one) is int and one >= 0 for one in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as exc:
        raise UnreadableCheckpoint(f"{where} is not described as the format asks: {entry!r:.200}") from exc
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise UnreadableCheckpoint(f"{where} is of type {dtype!r}; known are {', '.join(SIZES)}")
    if not counted or end - begin != math.prod(shape) * SIZES[dtype]:
        raise UnreadableCheckpoint(f"{where}: its shape {shape} in {dtype} does not take {begin}..{end} bytes")
    if base + end > size:
        raise UnreadableCheckpoint(
            f"{where} ends {base + end - size} bytes after the file does: the download was not complete; get it again"
        )
    return StoredTensor(file=file, name=name, dtype=dtype, shape=shape, offset=base + begin, length=end - begin)


def read_bytes(tensor: StoredTensor) -> bytes:
    """The tensor's values as they are stored. Raises: UnreadableCheckpoint."""
    try:
        with tensor.file.open("rb") as stream:
            data = os.pread(stream.fileno(), tensor.length, tensor.offset)
    except OSError as exc:
        raise UnreadableCheckpoint(f"{tensor.file} cannot be read: {exc.strerror or exc}") from exc
    if len(data) != tensor.length:
        raise UnreadableCheckpoint(f"{tensor.file} was cut off while it was in use: {tensor.name!r} is not whole")
    return data
