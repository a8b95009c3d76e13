"""Where the values of a network's weights lie in files, and a file that says so (a model's `bindings`)."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any

import ml_dtypes
import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from trt_engines.errors import ModelUnusable
from trt_engines.store.files import write_whole

STORED: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "F16": np.dtype(np.float16),
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "F32": np.dtype(np.float32),
        "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    }
)
"""Types of stored weights that graphs and modules read, by safetensors' words."""

CHUNK = 2**24
"""Bytes that are hashed at a time."""

MOST_BYTES = 2**24
"""Of a file of bindings: one of 2,000 weights takes about 200 kB."""

_SCALE_TYPE = np.dtype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A byte range of a file."""

    file: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundTensor:
    """A weight of a network and where its values lie."""

    name: str  # the module's: "model." and the library's own
    dtype: str  # a key of STORED
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
    def order(self) -> tuple[int, ...]:
        """For each piece, in the weight's order, its place in the file among them."""
        lying = sorted(self.pieces, key=lambda piece: piece.offset)
        return tuple(map(lying.index, self.pieces))


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundNetwork:
    """The weights of a network of a model."""

    config: Mapping[str, Any] | None  # of its module; None: the architecture's own
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


def float32_values(weight: BoundTensor) -> NDArray[np.float32]:
    """The values of a weight, computed as its graph does: float32 in the library's shape. Raises: OSError."""
    values = read_piece(weight.whole).view(STORED[weight.dtype]).astype(np.float32, copy=False)
    if weight.scale is not None:
        scale = read_piece(weight.scale).view(_SCALE_TYPE)
        rows, columns = weight.grid or (1, 1)
        height = weight.shape[0] if weight.grid else 1
        blocks = values.reshape(rows, height // rows, columns, -1)
        values = (blocks * scale.reshape(rows, 1, columns, 1)).ravel()
    if len(weight.pieces) > 1:
        parts = np.split(values, len(weight.pieces))
        values = np.concatenate([parts[place] for place in weight.order])
    return values.reshape(weight.shape)


def read_piece(piece: Piece) -> NDArray[np.uint8]:
    """A byte range in memory of its own: a file that is cut while it is read is an error, no crash as with a mapping.

    Raises: OSError.
    """
    data = np.fromfile(piece.file, np.uint8, piece.length, offset=piece.offset)
    if len(data) != piece.length:
        raise OSError(f"{piece.file} ends before its weights do")
    return data


def write_bindings(file: Path, config: Mapping[str, Any] | None, tensors: Sequence[BoundTensor]) -> None:
    """Write where a network's weights lie; the same weights give the same bytes.

    Args:
        file: beside which, or in folders below it, the weights' files lie; links count as lying there.
        config: of the network's module, where it has other sizes than the architecture's own.

    Raises: ValueError: a weight lies elsewhere. StoreFull.
    """
    names: dict[Path, int] = {}

    def place(piece: Piece) -> _Place:
        return names.setdefault(piece.file, len(names)), piece.offset, piece.length

    described = [
        _Tensor(
            name=one.name,
            dtype=one.dtype,
            shape=one.shape,
            pieces=tuple(map(place, one.pieces)),
            scale=None if one.scale is None else place(one.scale),
            grid=one.grid,
        )
        for one in tensors
    ]
    files = tuple(name.relative_to(file.parent).as_posix() for name in names)
    content = _Bindings(config=None if config is None else dict(config), files=files, tensors=tuple(described))
    write_whole(file, msgspec.json.encode(content, order="deterministic"))


def read_bindings(file: Path) -> BoundNetwork:
    """Read where a network's weights lie; that the files are there and long enough is looked at, their bytes are not.

    Sequences of the configuration are lists, whatever they were when it was written: modules take both.

    Raises: ModelUnusable: names file and field.
    """
    try:
        if file.exists() and not file.is_file():  # a named pipe would be waited for
            raise ModelUnusable(f"{file}: is no file")
        with file.open("rb") as stream:
            text = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise ModelUnusable(f"{file}: cannot be read ({error.strerror}); add the model again") from error
    if len(text) > MOST_BYTES:
        raise ModelUnusable(f"{file}: has more than {MOST_BYTES} bytes, which no network's bindings have")
    try:
        described = msgspec.json.decode(text, type=_Bindings)
        sizes = tuple(_file_size(file, number, name) for number, name in enumerate(described.files))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ModelUnusable(f"{file}: {str(error) or type(error).__name__}") from error
    if problem := next(_problems(described, sizes), None):
        raise ModelUnusable(f"{file}: {problem}")
    paths = [file.parent / name for name in described.files]

    def piece(place: _Place) -> Piece:
        number, offset, length = place
        return Piece(file=paths[number], offset=offset, length=length)

    tensors = tuple(
        BoundTensor(
            name=one.name,
            dtype=one.dtype,
            shape=one.shape,
            pieces=tuple(map(piece, one.pieces)),
            scale=None if one.scale is None else piece(one.scale),
            grid=one.grid,
        )
        for one in described.tensors
    )
    config = None if described.config is None else MappingProxyType(described.config)
    return BoundNetwork(config=config, tensors=tensors)


_Count = Annotated[int, Meta(ge=0, lt=2**48)]
_Size = Annotated[int, Meta(ge=1, lt=2**48)]
_Place = tuple[_Count, _Count, _Count]
"""Number of the file, offset, length."""


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    name: Annotated[str, Meta(min_length=1, max_length=500)]
    dtype: str
    shape: Annotated[tuple[_Size, ...], Meta(max_length=8)]
    pieces: Annotated[tuple[_Place, ...], Meta(min_length=1, max_length=16)]
    scale: _Place | None = None
    grid: Annotated[tuple[_Size, ...], Meta(max_length=2)] = ()


class _Bindings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    config: dict[str, Any] | None
    files: Annotated[tuple[str, ...], Meta(max_length=1000)]
    tensors: tuple[_Tensor, ...]


def _file_size(source: Path, number: int, name: str) -> int:
    """Bytes of a file that bindings name. Raises: ModelUnusable."""
    parts = PurePosixPath(name).parts
    if not name.isprintable() or not parts or name.startswith("/") or ".." in parts or len(name.encode()) > 1024:
        raise ModelUnusable(f"{source}: files[{number}]: is {name[:100]!r}; it names a file inside the model's folder")
    try:
        if not (source.parent / name).is_file():
            raise ModelUnusable(f"{source}: files[{number}]: names {name}, which is not there; fetch the model again")
        return (source.parent / name).stat().st_size
    except OSError as error:
        raise ModelUnusable(f"{source}: files[{number}]: {name} cannot be read ({error.strerror})") from error


def _problems(described: _Bindings, sizes: Sequence[int]) -> Iterator[str]:
    """What is wrong beyond types and ranges, as `field: reason`."""
    seen: set[str] = set()
    for number, one in enumerate(described.tensors):
        if one.name in seen:
            yield f"tensors[{number}].name: {one.name!r} is there twice"
        seen.add(one.name)
        yield from (f"tensors[{number}] ({one.name}).{problem}" for problem in _problems_of(one, sizes))


def _problems_of(one: _Tensor, sizes: Sequence[int]) -> Iterator[str]:
    if one.dtype not in STORED:
        yield f"dtype: is {one.dtype[:100]!r}; known are {', '.join(STORED)}"
        return
    for field, (number, offset, length) in (
        *(("pieces", place) for place in one.pieces),
        *((("scale", one.scale),) if one.scale is not None else ()),
    ):
        if number >= len(sizes):
            yield f"{field}: is in file {number} of {len(sizes)}"
        elif offset + length > sizes[number]:
            yield f"{field}: ends {offset + length - sizes[number]} bytes after its file does: it is cut or another one"
    values = math.prod(one.shape)
    if sum(length for _, _, length in one.pieces) != values * STORED[one.dtype].itemsize:
        yield f"pieces: are not the bytes of {one.shape} in {one.dtype}"
    lying = sorted(one.pieces)
    beside = all((file, offset + length, length) == following for (file, offset, length), following in pairwise(lying))
    if not beside or (len(lying) > 1 and (not one.shape or one.shape[0] % len(lying))):
        yield "pieces: are not equal parts of the first axis that lie side by side in one file"
    if one.scale is None:
        if one.grid:
            yield "grid: is of scales, and there are none"
        return
    if one.dtype != "F8_E4M3":
        yield f"scale: {one.dtype} has none"
    if one.scale[2] != math.prod(one.grid) * _SCALE_TYPE.itemsize:
        yield "scale: is not one float32 for each block of the grid"
    if one.grid and (
        len(one.grid) != 2 or not one.shape or one.shape[0] % one.grid[0] or values // one.shape[0] % one.grid[1]
    ):
        yield f"grid: {one.grid} does not part {one.shape} into blocks of one size"


def _hash(piece: Piece, total: hashlib._Hash) -> None:
    with piece.file.open("rb") as stream:
        offset, end = piece.offset, piece.offset + piece.length
        while offset < end:
            data = os.pread(stream.fileno(), min(CHUNK, end - offset), offset)
            if not data:
                raise OSError(f"{piece.file} ends before its weights do")
            total.update(data)
            offset += len(data)
