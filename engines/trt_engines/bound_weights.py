"""Where the weights of a network lie: byte ranges of a checkpoint's files, and their values.

A model's folder holds a file of them for each network, which PyTorch loads by: ONNX graphs say the same in their
external data.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import ml_dtypes
import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from trt_engines.description import problem_with_path
from trt_engines.errors import ModelUnusable
from trt_engines.small_file import read_small

TYPES: Mapping[str, np.dtype[Any]] = {
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
}
"""Types of stored weights that a network can have, by safetensors' words."""

MOST_BYTES = 16 * 2**20
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

    @property
    def whole(self) -> Piece:
        """The byte range that its pieces, which lie side by side in one file, take together."""
        first = min(self.pieces, key=lambda piece: piece.offset)
        return Piece(file=first.file, offset=first.offset, length=sum(piece.length for piece in self.pieces))

    @property
    def ranges(self) -> tuple[Piece, ...]:
        """Every byte range that it is made of: its pieces, and its scales."""
        return self.pieces if self.scale is None else (*self.pieces, self.scale)

    @property
    def order(self) -> tuple[int, ...]:
        """For each of its pieces, which place it has in the file among them."""
        lying = sorted(self.pieces, key=lambda piece: piece.offset)
        return tuple(map(lying.index, self.pieces))


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
        for piece in tensor.ranges:
            _hash(piece, total)
    return total.hexdigest()


def stored_values(tensor: BoundTensor) -> NDArray[Any]:
    """The values of a weight as they lie in the file, in the type they are stored in: flat, in the file's order.

    They are mapped, and take no memory until they are looked at.
    """
    return _mapped(tensor.whole, TYPES[tensor.dtype])


def scales(tensor: BoundTensor) -> NDArray[np.float32]:
    """The scales of a float8 weight, in a shape that multiplies `stored_values` once those have the shape of `blocks`.

    1 where it has none.
    """
    if tensor.scale is None:
        return np.ones((1, 1, 1, 1), np.float32)
    rows, columns = tensor.grid or (1, 1)
    return _mapped(tensor.scale, np.dtype(np.float32)).reshape(rows, 1, columns, 1)


def blocks(tensor: BoundTensor) -> tuple[int, int, int, int]:
    """The shape in which the values of a weight meet their scales: blocks along two axes, values within each."""
    rows, columns = tensor.grid or (1, 1)
    height = tensor.shape[0] if tensor.grid else 1
    return rows, height // rows, columns, math.prod(tensor.shape) // height // columns


def float32_values(tensor: BoundTensor) -> NDArray[np.float32]:
    """The values of a weight, computed as its graph does: float32 in the library's shape."""
    values: NDArray[np.float32] = stored_values(tensor).astype(np.float32)
    if tensor.scale is not None:
        values = (values.reshape(blocks(tensor)) * scales(tensor)).ravel()
    if len(tensor.pieces) > 1:
        parts = np.split(values, len(tensor.pieces))
        values = np.concatenate([parts[place] for place in tensor.order])
    return values.reshape(tensor.shape)


_Size = Annotated[int, Meta(ge=1, lt=2**48)]


class _StoredPiece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    file: Annotated[int, Meta(ge=0)]  # its place among the files
    offset: Annotated[int, Meta(ge=0, lt=2**48)]
    length: _Size


class _StoredTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    name: Annotated[str, Meta(min_length=1, max_length=500)]
    dtype: str
    shape: Annotated[tuple[_Size, ...], Meta(max_length=8)]
    pieces: Annotated[tuple[_StoredPiece, ...], Meta(min_length=1, max_length=16)]
    scale: _StoredPiece | None = None
    grid: Annotated[tuple[_Size, ...], Meta(max_length=2)] = ()


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
        ),
        order="deterministic",
    )


def read_bindings(file: Path) -> BoundNetwork:
    """The weights that a file of bindings names. Their files are looked for and measured, and not read.

    Sequences of the configuration are lists, whatever they were when it was written: modules take both.

    Raises: ModelUnusable: it cannot be read, or says what cannot be; names the file, and the weight.
    """
    text = read_small(file, MOST_BYTES, which="no network's bindings have", remedy="add the model again")
    try:
        read = msgspec.json.decode(text, type=_Bindings)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ModelUnusable(f"{file}: {str(error) or type(error).__name__}; add the model again") from error
    sizes = [_size(file, name) for name in read.files]
    seen: set[str] = set()
    for tensor in read.tensors:
        problem = "is there twice" if tensor.name in seen else next(_problems(tensor, sizes), "")
        if problem:
            raise ModelUnusable(f"{file}: the weight {tensor.name!r} {problem}; add the model again")
        seen.add(tensor.name)

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


def _size(source: Path, name: str) -> int:
    """Bytes of a file that bindings name. Raises: ModelUnusable."""
    if problem := problem_with_path(name):
        raise ModelUnusable(f"{source}: files: {problem}; add the model again")
    file = source.parent / name
    try:
        if not file.is_file():
            raise ModelUnusable(f"{source}: names {name}, which is not there; put it back, or add the model again")
        return file.stat().st_size
    except OSError as error:
        raise ModelUnusable(f"{source}: names {name}, which cannot be read ({error.strerror})") from error


def _problems(tensor: _StoredTensor, sizes: Sequence[int]) -> Iterator[str]:
    """What is wrong with a stored weight."""
    if tensor.dtype not in TYPES:
        yield f"is of the unknown type {tensor.dtype[:100]!r}"
        return
    for one in (*tensor.pieces, *([tensor.scale] if tensor.scale is not None else [])):
        if one.file >= len(sizes):
            yield f"lies in file {one.file} of {len(sizes)}"
        elif one.offset + one.length > sizes[one.file]:
            yield f"ends behind byte {sizes[one.file]}, where its file does"
    held, values = sum(one.length for one in tensor.pieces), math.prod(tensor.shape)
    if held != values * TYPES[tensor.dtype].itemsize:
        yield f"has {held} bytes where its shape {tensor.shape} needs {values * TYPES[tensor.dtype].itemsize}"
    lying = sorted((one.file, one.offset, one.length) for one in tensor.pieces)
    beside = all((file, begin + size, size) == after for (file, begin, size), after in pairwise(lying))
    if not beside or (len(lying) > 1 and (not tensor.shape or tensor.shape[0] % len(lying))):
        yield "has pieces that are no equal parts of its first axis, side by side in one file"
    yield from _problems_with_scales(tensor, values)


def _problems_with_scales(tensor: _StoredTensor, values: int) -> Iterator[str]:
    if tensor.scale is None:
        if tensor.grid:
            yield "has a grid of scales, and no scales"
        return
    if tensor.dtype != "F8_E4M3":
        yield f"has scales, which no {tensor.dtype} has"
    if tensor.scale.length != np.dtype(np.float32).itemsize * math.prod(tensor.grid):
        yield f"has {tensor.scale.length} bytes of scales for a grid {tensor.grid}"
    if not tensor.grid:
        return
    height = tensor.shape[0] if tensor.shape else 1
    if len(tensor.grid) != 2 or height % tensor.grid[0] or values // height % tensor.grid[1]:
        yield f"has scales for a grid {tensor.grid}, which does not part {tensor.shape} into blocks of one size"


def _mapped(piece: Piece, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values of a byte range, read from the file when they are looked at; copied where they lie unaligned."""
    raw: NDArray[Any] = np.memmap(piece.file, np.uint8, "r", piece.offset, (piece.length,))
    return np.require(raw.view(dtype), requirements="A")


def _hash(piece: Piece, total: hashlib._Hash) -> None:
    with piece.file.open("rb") as stream:
        offset, end = piece.offset, piece.offset + piece.length
        while offset < end:
            data = os.pread(stream.fileno(), min(_CHUNK, end - offset), offset)
            if not data:
                raise OSError(f"{piece.file} ends before its weights do")
            total.update(data)
            offset += len(data)
