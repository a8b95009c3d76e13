"""Where the weights of a network lie: byte ranges of a checkpoint's files, and their values.

A model's folder holds a file of them for each network, which PyTorch loads by: ONNX graphs say the same in their
external data.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import ml_dtypes
import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from trt_engines.errors import ModelUnusable

TYPES: Mapping[str, np.dtype[Any]] = {
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
}
"""Types of stored weights that a network can have, by safetensors' words."""

MOST_BYTES = 64 * 2**20
"""Of a file of bindings: the largest network has some thousand weights of two hundred bytes each."""

_CHUNK = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A byte range of a file."""

    file: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundTensor:
    """A weight of a network and where its values lie."""

    name: str  # the exported module's: "model." and the library's own
    dtype: str  # one of TYPES
    shape: tuple[int, ...]  # the library's
    pieces: tuple[Piece, ...]  # joined along the first axis: one, or equal ones that lie side by side in another order
    scale: Piece | None = None  # float8 only: float32; a weight is its value times its scale
    grid: tuple[int, ...] = ()  # of scales over the values as they lie in the file, blocks of one size; (): one scale


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundNetwork:
    """All weights of one network of a model."""

    config: Mapping[str, Any] | None  # of its module, where it is not the architecture's own
    tensors: tuple[BoundTensor, ...]


def digest(tensors: Iterable[BoundTensor]) -> str:
    """SHA-256 over name, type, shape and content of weights, wherever their bytes lie.

    Raises: OSError: a file cannot be read.
    """
    total = hashlib.sha256()
    for tensor in tensors:
        grid = f" {tensor.grid}" if tensor.grid else ""
        total.update(f"{tensor.name} {tensor.dtype} {tensor.shape}{grid}\n".encode())
        for piece in (*tensor.pieces, *([tensor.scale] if tensor.scale else [])):
            _hash(piece, total)
    return total.hexdigest()


def stored_values(tensor: BoundTensor) -> NDArray[Any]:
    """The values of a weight in the type they are stored in, without its scale, in the library's shape.

    They are mapped: memory is taken only where halves that lie in another order are joined.
    """
    pieces = [_mapped(piece, TYPES[tensor.dtype]) for piece in tensor.pieces]
    return (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).reshape(tensor.shape)


def float32_values(tensor: BoundTensor) -> NDArray[np.float32]:
    """The values of a weight, computed as its graph does: float32 in the library's shape."""
    if tensor.scale is None:
        return stored_values(tensor).astype(np.float32)
    lying = sorted(tensor.pieces, key=lambda piece: piece.offset)  # as a grid of scales is over them
    raw = [_mapped(piece, TYPES[tensor.dtype]).astype(np.float32) for piece in lying]
    values: NDArray[np.float32] = raw[0] if len(raw) == 1 else np.concatenate(raw)
    rows, columns = tensor.grid or (1, 1)
    scale = _mapped(tensor.scale, np.dtype(np.float32)).reshape(rows, 1, columns, 1)
    height = tensor.shape[0] if tensor.grid else 1
    values = (values.reshape(rows, height // rows, columns, -1) * scale).ravel()
    if len(lying) == 1:
        return values.reshape(tensor.shape)
    parts = dict(zip(lying, np.split(values, len(lying)), strict=True))
    joined: NDArray[np.float32] = np.concatenate([parts[piece] for piece in tensor.pieces])
    return joined.reshape(tensor.shape)


class _StoredPiece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    file: int  # its place among the files
    offset: Annotated[int, Meta(ge=0)]
    length: Annotated[int, Meta(ge=0)]


class _StoredTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    dtype: str
    shape: tuple[Annotated[int, Meta(ge=0)], ...]
    pieces: Annotated[tuple[_StoredPiece, ...], Meta(min_length=1)]
    scale: _StoredPiece | None = None
    grid: tuple[Annotated[int, Meta(ge=1)], ...] = ()


class _Bindings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    files: tuple[str, ...]  # names in the folder of this file
    tensors: tuple[_StoredTensor, ...]
    config: dict[str, Any] | None = None


def bindings(
    tensors: Sequence[BoundTensor], names: Mapping[Path, str], config: Mapping[str, Any] | None = None
) -> bytes:
    """A file of bindings.

    Args:
        names: what each of the weights' files is called in the folder of that file.
        config: see `BoundNetwork`.
    """
    places = {path: number for number, path in enumerate(names)}

    def stored(piece: Piece) -> _StoredPiece:
        return _StoredPiece(file=places[piece.file], offset=piece.offset, length=piece.length)

    return msgspec.json.encode(
        _Bindings(
            files=tuple(names.values()),
            tensors=tuple(
                _StoredTensor(
                    name=one.name,
                    dtype=one.dtype,
                    shape=one.shape,
                    pieces=tuple(map(stored, one.pieces)),
                    scale=None if one.scale is None else stored(one.scale),
                    grid=one.grid,
                )
                for one in tensors
            ),
            config=None if config is None else dict(config),
        )
    )


def read_bindings(file: Path) -> BoundNetwork:
    """The weights that a file of bindings names.

    Raises: ModelUnusable: it cannot be read, or says what cannot be; names the file, and the weight.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ModelUnusable(f"{file}: has more than {MOST_BYTES} bytes, which no network's bindings have")
        read = msgspec.json.decode(file.read_bytes(), type=_Bindings)
        sizes = [(file.parent / name).stat().st_size for name in read.files]
    except OSError as error:
        raise ModelUnusable(f"{error.filename or file}: cannot be read ({error.strerror})") from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ModelUnusable(f"{file}: {str(error) or type(error).__name__}; add the model again") from error
    for name in read.files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelUnusable(f"{file}: names {name!r}, which is not in its folder; add the model again")
    for tensor in read.tensors:
        if problem := _problem(tensor, sizes):
            raise ModelUnusable(f"{file}: the weight {tensor.name!r} {problem}; add the model again")

    def piece(stored: _StoredPiece) -> Piece:
        return Piece(file=file.parent / read.files[stored.file], offset=stored.offset, length=stored.length)

    return BoundNetwork(
        config=read.config,
        tensors=tuple(
            BoundTensor(
                name=one.name,
                dtype=one.dtype,
                shape=one.shape,
                pieces=tuple(map(piece, one.pieces)),
                scale=None if one.scale is None else piece(one.scale),
                grid=one.grid,
            )
            for one in read.tensors
        ),
    )


def _problem(tensor: _StoredTensor, sizes: Sequence[int]) -> str:
    """What is wrong with a stored weight; empty: nothing."""
    if tensor.dtype not in TYPES:
        return f"is of the unknown type {tensor.dtype!r}"
    for one in (*tensor.pieces, *([tensor.scale] if tensor.scale is not None else [])):
        if not 0 <= one.file < len(sizes):
            return f"lies in file {one.file} of {len(sizes)}"
        if one.offset + one.length > sizes[one.file]:
            return f"ends behind byte {sizes[one.file]}, where its file does"
    held, needed = sum(one.length for one in tensor.pieces), math.prod(tensor.shape) * TYPES[tensor.dtype].itemsize
    if held != needed:
        return f"has {held} bytes where its shape needs {needed}"
    if tensor.grid and (len(tensor.grid) != 2 or tensor.shape[0] % tensor.grid[0]):
        return f"has scales of the shape {tensor.grid}"
    if tensor.scale is not None and tensor.scale.length != 4 * math.prod(tensor.grid):
        return f"has {tensor.scale.length} bytes of scales"
    return ""


def _mapped(piece: Piece, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values of a byte range, read from the file when they are looked at."""
    if not piece.length:
        return np.zeros(0, dtype)
    raw: NDArray[Any] = np.memmap(piece.file, np.uint8, "r", piece.offset, (piece.length,))
    return raw.view(dtype)


def _hash(piece: Piece, total: hashlib._Hash) -> None:
    with piece.file.open("rb") as stream:
        offset, end = piece.offset, piece.offset + piece.length
        while offset < end:
            data = os.pread(stream.fileno(), min(_CHUNK, end - offset), offset)
            if not data:
                raise OSError(f"{piece.file} ends before its weights do")
            total.update(data)
            offset += len(data)
