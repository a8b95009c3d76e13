"""Safetensors files by their headers: where each tensor lies, without reading any."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
"""Bits of one value, by the format's words for types: all that its reference reader knows."""

SIZES = {word: bits // 8 for word, bits in BITS.items() if bits % 8 == 0}
"""Bytes of one value, of the types whose values are whole bytes."""

LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""

LARGEST_NUMBER = 2**64
"""Sizes and offsets are below it in the format's reference reader."""

LONGEST_NUMBER = 300
"""Digits; more are no number in the reference reader."""

QUOTED = 200
"""Characters of a header that an error repeats."""


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

    What the format's reference reader refuses is refused here as well: text that is not UTF-8, types that nobody
    knows, lengths that shapes do not ask for, tensors that overlap, bytes of the data that belong to no tensor. So is a
    name that is there twice, of which the reference reader takes one. Format: 8 bytes of header length (little
    endian), a JSON object, the data (huggingface.co/docs/safetensors).

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
    described = _described(file, text)
    notes = described.pop("__metadata__", None)
    if notes is not None and not (isinstance(notes, dict) and all(isinstance(one, str) for one in notes.values())):
        raise UnreadableCheckpoint(f"{file} is no safetensors file: its __metadata__ is not an object of texts")
    found = {name: _tensor(file, name, entry, 8 + head, size) for name, entry in described.items()}
    _cover(file, found, 8 + head, size)
    return MappingProxyType(found)


def _described(file: Path, text: bytes) -> dict[str, Any]:
    """The header's JSON object, read as strictly as the reference reader does."""
    try:
        decoded = text.decode("utf-8")
        described = json.loads(decoded, object_pairs_hook=_unique, parse_constant=_no_number, parse_int=_whole_number)
        if "\\u" in decoded:  # only escapes can bring half of a surrogate pair
            json.dumps(described, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as exc:
        raise UnreadableCheckpoint(
            f"{file} is no safetensors file: its header is not JSON in UTF-8 ({exc!s:.{QUOTED}}); download it again"
        ) from exc
    if not isinstance(described, dict):
        raise UnreadableCheckpoint(f"{file} is no safetensors file: its header is not a JSON object")
    return described


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a header. Raises: ValueError: a name is there twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r:.{QUOTED}} is there twice")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _whole_number(digits: str) -> int | float:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError("a number is out of range")
    return -0.0 if digits == "-0" else int(digits)


def _tensor(file: Path, name: str, entry: Any, base: int, size: int) -> StoredTensor:
    where = f"{file}: the tensor {name!r:.{QUOTED}}"
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        counted = isinstance(shape, list) and all(type(one) is int and one >= 0 for one in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as exc:
        raise UnreadableCheckpoint(f"{where} is not described as the format asks: {entry!r:.{QUOTED}}") from exc
    if not isinstance(dtype, str) or dtype not in BITS:
        raise UnreadableCheckpoint(f"{where} is of type {dtype!r:.{QUOTED}}; known are {', '.join(BITS)}")
    bits = _bits(shape, dtype) if counted else None
    if bits is None or 8 * (end - begin) != bits:
        told = f"{tuple(shape) if isinstance(shape, list) else shape!r}"
        raise UnreadableCheckpoint(
            f"{where}: its shape {told:.{QUOTED}} in {dtype} does not take {begin!r:.30}..{end!r:.30} bytes"
        )
    if base + end > size:
        raise UnreadableCheckpoint(
            f"{where} ends {base + end - size} bytes after the file does: the download was not complete; get it again"
        )
    return StoredTensor(file=file, name=name, dtype=dtype, shape=tuple(shape), offset=base + begin, length=end - begin)


def _bits(shape: list[int], dtype: str) -> int | None:
    """Bits of a tensor; None: more than the format's numbers hold."""
    count = 1
    for one in shape:  # not math.prod: of a shape of 100,000 axes that takes half a minute
        count *= one
        if count >= LARGEST_NUMBER:
            return None
    bits = BITS[dtype] * count
    return bits if bits < LARGEST_NUMBER else None


def _cover(file: Path, tensors: Mapping[str, StoredTensor], begin: int, end: int) -> None:
    """Fail unless tensors follow one another through all of the data."""
    at, before = begin, ""
    for name, one in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].length)):
        if one.offset < at:
            raise UnreadableCheckpoint(
                f"{file}: the tensors {before!r:.{QUOTED}} and {name!r:.{QUOTED}} overlap: the file is damaged, or was "
                "made to be read in two ways; get it from somebody else"
            )
        if one.offset > at:
            break
        at, before = one.offset + one.length, name
    if at != end:
        raise UnreadableCheckpoint(
            f"{file}: its data from byte {at} on belongs to no tensor: the file is damaged; download it again"
        )


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
