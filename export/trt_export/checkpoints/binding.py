"""Which bytes of a checkpoint are which weights of a graph."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from trt_engines.bound_weights import TYPES, BoundTensor, Piece
from trt_engines.store.files import write_whole
from trt_export.checkpoints.keymap import Change, KeyMap, Lookup, Place, diffusers, lookup
from trt_export.checkpoints.leftovers import MEANINGS, leftovers
from trt_export.checkpoints.safetensors_file import SIZES, StoredTensor, Values, encode, read_bytes, read_header
from trt_export.checkpoints.scales import Scales, UnknownScale, stem_of

PREFIX = "model."
"""What an exported module puts in front of the library's parameter names."""

BINDABLE = tuple(TYPES)
"""Types of stored weights that a graph can read, in safetensors' words."""

INSTEAD = "take the float8 e4m3 or the bf16 file"
"""What to do about weights that no graph reads."""


class WeightsMissing(Exception):
    """A checkpoint lacks weights of a network, has others, or has them otherwise; the message names file and key."""


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
    layout = _layout([name.removeprefix(PREFIX) for name in parameters], tensors, tables)
    bound, rewritten = _bind(parameters, tensors, layout)
    if not rewritten:
        return bound
    write_whole(side_file, *encode(rewritten))
    moved = read_header(side_file)
    return tuple(_moved(tensor, moved) for tensor in bound)


def holds(name: str, tensors: Mapping[str, StoredTensor], tables: Sequence[KeyMap]) -> bool:
    """Whether a checkpoint has a weight, by the library's name, in any layout.

    Args: tensors, tables: as those of `bind`.
    """
    return any(
        prefix + place.stored in tensors
        for table in (*tables, diffusers((name,), prefixes=("", PREFIX)))
        for place in lookup(table).places(name)
        for prefix in table.prefixes
    )


def tensors_of(
    parameters: Mapping[str, tuple[int, ...]], tensors: Mapping[str, StoredTensor], tables: Sequence[KeyMap]
) -> Mapping[str, StoredTensor]:
    """What a checkpoint has of a network: its weights, and all that lies beside them under their own names.

    Args: as those of `bind`. Raises: WeightsMissing: it has none of them.
    """
    names = [name.removeprefix(PREFIX) for name in parameters]
    table, prefix = _layout(names, tensors, tables)
    stems = {stem_of(prefix + place.stored) for name in names for place in table.places(name)}
    return {name: one for name, one in tensors.items() if not stems.isdisjoint(_heads(name))}


def _heads(name: str) -> Iterator[str]:
    """A name and its beginnings at each dot: a weight's own name is among those of what lies beside it."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def check(
    parameters: Mapping[str, tuple[int, ...]], tensors: Mapping[str, StoredTensor], tables: Sequence[KeyMap]
) -> StoredWeights:
    """What a checkpoint holds of a network, once it is known that all of it can be bound and that it has no more.

    Headers are read, and scales; nothing is written.

    Args: as those of `bind`, `parameters` being all that the network has, whether or not a graph reads them.

    Raises: WeightsMissing, UnreadableCheckpoint.
    """
    names = [name.removeprefix(PREFIX) for name in parameters]
    table, prefix = _layout(names, tensors, tables)
    bound, rewritten = _bind(parameters, tensors, (table, prefix))
    if more := list(leftovers(names, tensors, (table, prefix), [lookup(one) for one in tables])):
        meaning = next(
            (MEANINGS[key.removeprefix(prefix)] for key in more if key.removeprefix(prefix) in MEANINGS), None
        )
        told = ", ".join(more[:3]) + (f" and {len(more) - 3} more" if len(more) > 3 else "")
        raise WeightsMissing(
            f"{_files(tensors)}: beside the network's weights are {told}, which it has no use for: the file is of "
            + (meaning or "another network, or of one that was extended")
            + ". Take a file of the plain model"
        )
    sizes: dict[str, int] = {}
    for one in bound:
        sizes[one.dtype] = sizes.get(one.dtype, 0) + sum(piece.length for piece in one.pieces)
    scales = sum(len(values.data) for name, values in rewritten.items() if name.endswith(_SCALE))
    return StoredWeights(sizes=MappingProxyType(sizes), scales=scales, tensors=len(bound))


def _bind(
    parameters: Mapping[str, tuple[int, ...]], tensors: Mapping[str, StoredTensor], layout: tuple[Lookup, str]
) -> tuple[tuple[BoundTensor, ...], dict[str, Values]]:
    """Where every weight lies, and the values of those that cannot be bound there."""
    names = {name.removeprefix(PREFIX): shape for name, shape in parameters.items()}
    table, prefix = layout
    scales, rewritten = Scales(tensors), dict[str, Values]()
    return tuple(_bind_one(name, names, table, prefix, tensors, scales, rewritten) for name in names), rewritten


def _layout(names: Iterable[str], tensors: Mapping[str, StoredTensor], tables: Sequence[KeyMap]) -> tuple[Lookup, str]:
    """The table under which the checkpoint holds most of the weights, and the prefix of its names.

    The library's own names are looked for behind every prefix that a table has, for files are put together of others.
    """
    wanted = tuple(names)
    prefixes = dict.fromkeys(("", PREFIX, *(prefix for table in tables for prefix in table.prefixes)))
    best: tuple[int, Lookup, str] | None = None
    for one in (*map(lookup, tables), Lookup(diffusers(wanted, prefixes=tuple(prefixes)))):
        places = [[place.stored for place in one.places(name)] for name in wanted]
        for prefix in one.table.prefixes:
            count = sum(any(prefix + stored in tensors for stored in some) for some in places)
            if count == len(wanted):
                return one, prefix
            if best is None or count > best[0]:
                best = (count, one, prefix)
    if best is None or best[0] == 0:
        held = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise WeightsMissing(
            f"{_files(tensors)}: none of the network's {len(wanted)} weights is there in any known layout; it holds "
            f"{len(tensors)} tensors ({held}, ..). It may be of another architecture (name the right one with "
            "--architecture), or without this network, which then is in a file that has to be named or put beside it"
        )
    return best[1], best[2]


def _bind_one(
    name: str,
    names: Mapping[str, tuple[int, ...]],
    table: Lookup,
    prefix: str,
    tensors: Mapping[str, StoredTensor],
    scales: Scales,
    rewritten: dict[str, Values],
) -> BoundTensor:
    shape, places = names[name], table.places(name)
    if not places:
        raise WeightsMissing(f"the {table.table.layout} layout has no name for the weight {name!r}: its table lacks it")
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
            f"{stored.file}: the weight {stored.name!r} is of type {stored.dtype}; graphs read {', '.join(BINDABLE)}: "
            f"{INSTEAD}"
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
        try:
            grid = _part_of_grid(scales.of(stored), stored, part, change)
        except UnknownScale as exc:
            raise WeightsMissing(f"{stored.file}: the weight {stored.name!r} is float8 and {exc}: {INSTEAD}") from exc
        bound = replace(bound, grid=grid.shape)
        rewritten[bound.name + _SCALE] = Values(dtype="F32", shape=grid.shape, data=grid.tobytes())
    return bound


def _part_of_grid(grid: np.ndarray, stored: StoredTensor, part: Piece, change: Change) -> np.ndarray:
    """The scales of one of the parameters in a stored tensor, as its values lie there.

    Raises: UnknownScale: a block is of two of them, or its values stand in another order.
    """
    if grid.ndim == 0:
        return grid
    if change not in (Change.NONE, Change.HALVES_SWAPPED):
        raise UnknownScale(f"has a scale for each block, and its values are {change} besides")
    rows = stored.length // grid.shape[0]  # bytes of one row of blocks
    begin, length = part.offset - stored.offset, part.length
    if begin % rows or length % rows:
        raise UnknownScale("has blocks of one scale that belong to two weights")
    return np.ascontiguousarray(grid[begin // rows : (begin + length) // rows])


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
