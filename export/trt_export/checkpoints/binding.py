"""Which bytes of a checkpoint are which weights of a graph."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from trt_engines.store.files import write_whole
from trt_export.checkpoints.keymap import Change, KeyMap, Lookup, Place, diffusers
from trt_export.checkpoints.safetensors_file import SIZES, StoredTensor, Values, encode, read_bytes, read_header

PREFIX = "model."
"""What an exported module puts in front of the library's parameter names."""

BINDABLE = ("F16", "BF16", "F32", "F8_E4M3")
"""Types of stored weights that a graph can read, in safetensors' words."""

SCALES = (".scale_weight", ".weight_scale")
"""Endings, in place of ".weight", of the names under which files keep the scale of a float8 weight: ComfyUI's scaled
checkpoints have the first, ModelOpt's the second."""


class WeightsMissing(Exception):
    """A checkpoint lacks weights of a network, or has them in another shape; the message names file, key and shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A byte range of a file."""

    file: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundTensor:
    """A weight of a graph and where its values lie."""

    name: str  # the exported module's: "model." and the library's own
    dtype: str  # one of BINDABLE
    shape: tuple[int, ...]  # the library's
    pieces: tuple[Piece, ...]  # joined along the first axis: one, or equal ones that lie side by side in another order
    scale: Piece | None = None  # float8 only: one float32; a weight is its value times the scale


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """What a checkpoint holds of a network."""

    sizes: Mapping[str, int]  # bytes of its weights as they are stored, by type in safetensors' words
    scales: int = 0  # bytes
    tensors: int = 0  # weights, by the library's names

    @property
    def types(self) -> frozenset[str]:
        """Of the weights."""
        return frozenset(self.sizes)

    @property
    def size(self) -> int:
        """Bytes of all weights and their scales."""
        return sum(self.sizes.values()) + self.scales


def bind(
    parameters: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, StoredTensor],
    tables: Sequence[KeyMap],
    side_file: Path,
) -> tuple[BoundTensor, ...]:
    """Find every weight of a graph in a checkpoint.

    Args:
        parameters: names (with PREFIX) and shapes of the weights that the graph reads.
        tensors: what the checkpoint holds, by the names in its files.
        tables: layouts the network is published in; its own library's is tried as well.
        side_file: gets the values that cannot be bound where they lie (transposed weights, scales in other types).
            It is written only if there are any.

    Raises: WeightsMissing, UnreadableCheckpoint; OSError: the side file cannot be written.
    """
    bound, rewritten = _bind(parameters, tensors, tables)
    if not rewritten:
        return bound
    write_whole(side_file, *encode(rewritten))
    moved = read_header(side_file)
    return tuple(_moved(tensor, moved) for tensor in bound)


def check(
    parameters: Mapping[str, tuple[int, ...]], tensors: Mapping[str, StoredTensor], tables: Sequence[KeyMap]
) -> StoredWeights:
    """What a checkpoint holds of a network, once it is known that all of it can be bound.

    Headers are read, and values that cannot be bound where they lie; nothing is written.

    Args: as those of `bind`, `parameters` being all that the network has, whether or not a graph reads them.

    Raises: WeightsMissing, UnreadableCheckpoint.
    """
    bound, rewritten = _bind(parameters, tensors, tables)
    sizes: dict[str, int] = {}
    for one in bound:
        sizes[one.dtype] = sizes.get(one.dtype, 0) + sum(piece.length for piece in one.pieces)
    scales = sum(len(values.data) for name, values in rewritten.items() if name.endswith(_SCALE))
    return StoredWeights(sizes=MappingProxyType(sizes), scales=scales, tensors=len(bound))


def _bind(
    parameters: Mapping[str, tuple[int, ...]], tensors: Mapping[str, StoredTensor], tables: Sequence[KeyMap]
) -> tuple[tuple[BoundTensor, ...], dict[str, Values]]:
    """Where every weight lies, and the values of those that cannot be bound there."""
    names = {name.removeprefix(PREFIX): shape for name, shape in parameters.items()}
    lookup, prefix = _layout(names, tensors, tables)
    rewritten: dict[str, Values] = {}
    return tuple(_bind_one(name, names, lookup, prefix, tensors, rewritten) for name in names), rewritten


def _layout(
    names: Mapping[str, tuple[int, ...]], tensors: Mapping[str, StoredTensor], tables: Sequence[KeyMap]
) -> tuple[Lookup, str]:
    """The table under which the checkpoint holds most of the weights, and the prefix of its names."""
    best: tuple[int, Lookup, str] | None = None
    for table in (*tables, diffusers(names, prefixes=("", PREFIX))):
        lookup = Lookup(table)
        places = [[place.stored for place in lookup.places(name)] for name in names]
        for prefix in table.prefixes:
            count = sum(any(prefix + stored in tensors for stored in some) for some in places)
            if best is None or count > best[0]:
                best = (count, lookup, prefix)
    if best is None or best[0] == 0:
        held = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise WeightsMissing(
            f"{_files(tensors)}: none of the network's {len(names)} weights is there in any known layout; it holds "
            f"{len(tensors)} tensors ({held}, ..). It may be of another architecture (name the right one with "
            "--architecture), or without this network, which then is in a file that has to be named or put beside it"
        )
    return best[1], best[2]


def _bind_one(
    name: str,
    names: Mapping[str, tuple[int, ...]],
    lookup: Lookup,
    prefix: str,
    tensors: Mapping[str, StoredTensor],
    rewritten: dict[str, Values],
) -> BoundTensor:
    shape, places = names[name], lookup.places(name)
    if not places:
        raise WeightsMissing(
            f"the {lookup.table.layout} layout has no name for the weight {name!r}: its table lacks it"
        )
    place = next((one for one in places if prefix + one.stored in tensors), places[0])
    stored = tensors.get(prefix + place.stored)
    if stored is None:
        close = difflib.get_close_matches(prefix + place.stored, tensors, n=3, cutoff=0.6)
        raise WeightsMissing(
            f"{_files(tensors)}: the weight {prefix + place.stored!r} {shape} is missing"
            + (f"; closest are {', '.join(close)}" if close else "")
        )
    if stored.dtype not in BINDABLE:
        raise WeightsMissing(
            f"{stored.file}: the weight {stored.name!r} is of type {stored.dtype}; graphs read {', '.join(BINDABLE)}. "
            "Take the model's bf16, fp16 or fp8 (e4m3) file, not one quantised otherwise"
        )
    part = _part(stored, place, names)
    change = place.entry.change
    bound = BoundTensor(name=PREFIX + name, dtype=stored.dtype, shape=shape, pieces=(part,))
    if change is Change.HALVES_SWAPPED:
        half = part.length // 2
        ends = (replace(part, offset=part.offset + half, length=part.length - half), replace(part, length=half))
        bound = replace(bound, pieces=ends)
    elif change is Change.TRANSPOSED:
        values = np.frombuffer(read_bytes(stored), _RAW[SIZES[stored.dtype]]).reshape(shape[::-1])
        rewritten[bound.name] = Values(dtype=stored.dtype, shape=shape, data=values.T.tobytes())
    if stored.dtype == "F8_E4M3":
        rewritten[bound.name + _SCALE] = _scale(stored, tensors)
    return bound


def _part(stored: StoredTensor, place: Place, names: Mapping[str, tuple[int, ...]]) -> Piece:
    """The bytes of one of the parameters that lie in a stored tensor one after another."""
    shape = names[place.library[place.position]]
    lengths = [math.prod(names[one]) * SIZES[stored.dtype] if one in names else None for one in place.library]
    if lengths.count(None) == 1:  # a part that the graph does not read takes what the others leave
        rest = stored.length - sum(length for length in lengths if length is not None)
        lengths = [rest if length is None else length for length in lengths]
    known = [length for length in lengths if length is not None]
    if len(known) == len(lengths) and sum(known) == stored.length and min(known) >= 0:
        alone = len(known) == 1
        if not alone or _same_values(stored.shape, shape, place.entry.change):
            start = stored.offset + sum(known[: place.position])
            return Piece(file=stored.file, offset=start, length=known[place.position])
    part = f", as part {place.position + 1} of {len(lengths)}" if len(lengths) > 1 else ""
    raise WeightsMissing(
        f"{stored.file}: {stored.name!r} has the shape {stored.shape} where the network needs {shape}{part}; "
        "the checkpoint is of another architecture or size"
    )


def _same_values(stored: tuple[int, ...], shape: tuple[int, ...], change: Change) -> bool:
    """Whether a stored shape is the library's but for axes of one element, and for what the table changes."""
    wanted = {Change.TRANSPOSED: shape[::-1], Change.FLATTENED: (math.prod(shape),)}.get(change, shape)
    return [size for size in stored if size != 1] == [size for size in wanted if size != 1]


def _scale(stored: StoredTensor, tensors: Mapping[str, StoredTensor]) -> Values:
    """The scale of a float8 weight, 1 where the file has none."""
    stem = stored.name.removesuffix(".weight")
    for ending in SCALES:
        if found := tensors.get(stem + ending):
            if math.prod(found.shape) != 1 or found.dtype not in _FLOATS:
                raise WeightsMissing(
                    f"{found.file}: the scale {found.name!r} is {found.dtype} {found.shape}; one number for the whole "
                    "weight is what engines take. Take the model's bf16 or fp16 file, or one with a scale per tensor"
                )
            return Values(dtype="F32", shape=(), data=_float32(found))
    return Values(dtype="F32", shape=(), data=np.float32(1).tobytes())


def _float32(number: StoredTensor) -> bytes:
    """One stored number as float32; the upper half of one is a bfloat16."""
    data = read_bytes(number)
    if number.dtype == "BF16":
        return bytes(2) + data
    return np.frombuffer(data, _FLOATS[number.dtype]).astype(np.float32).tobytes()


def _moved(tensor: BoundTensor, side: Mapping[str, StoredTensor]) -> BoundTensor:
    """The weight with what the side file has of it."""
    if found := side.get(tensor.name):
        tensor = replace(tensor, pieces=(_whole(found),))
    if found := side.get(tensor.name + _SCALE):
        tensor = replace(tensor, scale=_whole(found))
    return tensor


def _whole(stored: StoredTensor) -> Piece:
    return Piece(file=stored.file, offset=stored.offset, length=stored.length)


def _files(tensors: Mapping[str, StoredTensor]) -> str:
    files = sorted({tensor.file for tensor in tensors.values()})
    return ", ".join(str(file) for file in files[:2]) + (f" and {len(files) - 2} more" if len(files) > 2 else "")


_SCALE = "#scale"
_RAW: dict[int, type[np.generic]] = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_FLOATS: dict[str, type[np.generic]] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
