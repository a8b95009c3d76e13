"""Checkpoints of seeded random weights: full size, in the original layout, for builds and measurements."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from trt_engines.architectures.architecture import Architecture
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.registry import MODULES, module_of
from trt_engines.store.files import megabytes, whole_file
from trt_export.checkpoints.binding import PREFIX
from trt_export.checkpoints.keymap import Change, KeyMap, Lookup, Place
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.safetensors_file import SIZES, encode_header

TYPES = {
    "float32": ("F32", torch.float32),
    "float16": ("F16", torch.float16),
    "bfloat16": ("BF16", torch.bfloat16),
    "float8": ("F8_E4M3", torch.float8_e4m3fn),
}
"""What weights can be of. In float8 only matrices are, each with a scale of its own; the rest is float16."""

CHUNK = 1 << 22
"""Values that are made at a time: bounds the memory."""

FLOAT8_UNIT = 100.0
"""What one standard deviation of a float8 weight is stored as: 448, the type's largest, is then met by none."""


class NoLayout(Exception):
    """A network is published in no layout that is known, or its table lacks some of its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A tensor of a published file, and the parameters in it with their shapes, in order."""

    parts: Mapping[str, tuple[int, ...]]
    change: Change

    @property
    def shape(self) -> tuple[int, ...]:
        """As it is stored."""
        shapes = tuple(self.parts.values())
        joined = (sum(shape[0] for shape in shapes), *shapes[0][1:]) if shapes[0] else ()
        match self.change:
            case Change.TRANSPOSED:
                return joined[::-1]
            case Change.FLATTENED:
                return (math.prod(joined),)
            case Change.NONE | Change.HALVES_SWAPPED:
                return joined


def published(parameters: Mapping[str, tuple[int, ...]], table: KeyMap) -> dict[str, Published]:
    """The tensors that a file in a layout has for a network, by their names without a prefix; tied ones once.

    Args: parameters: the library's names and shapes.

    Raises: NoLayout: the table lacks a parameter, or the network lacks one that lies between its own.
    """
    lookup, found = Lookup(table), dict[str, Published]()
    repeated = {name for group in table.tied for name in group[1:] if group[0] in parameters}
    for name in parameters:
        if name in repeated:
            continue
        place = lookup.by_library(name)
        if place is None or not all(one in parameters for one in place.library):
            raise NoLayout(f"the {table.layout} layout has no place for the weight {name!r}")
        found[place.stored] = _published(place, parameters)
    return found


def _published(place: Place, parameters: Mapping[str, tuple[int, ...]]) -> Published:
    return Published(parts={one: parameters[one] for one in place.library}, change=place.entry.change)


def parameters_of(spec: ModuleSpec) -> dict[str, tuple[int, ...]]:
    """The library's names and shapes of the weights of a network, and of the statistics that it reads."""
    with torch.device("meta"):
        state = spec.make(spec.config).state_dict()
    return {
        name.removeprefix(PREFIX): tuple(values.shape) for name, values in state.items() if values.is_floating_point()
    }


def random_tensors(
    architecture: Architecture,
    *,
    small: bool = False,
    networks: Collection[str] = (),
    tables: Callable[[str, str], Sequence[KeyMap]] = key_maps,
) -> dict[str, Published]:
    """The tensors of a file of networks of an architecture, in the first layout and under the first prefix of each.

    Args: small: the networks for tests. networks: those of the file by their names; all without any. tables: of an
        architecture's network.

    Raises: NoLayout; KeyError: the architecture has no such network.
    """
    found: dict[str, Published] = {}
    chosen = [module_of(architecture.name, name) for name in networks] or MODULES[architecture.name]
    for spec in chosen:
        known = tables(architecture.name, spec.name)
        if not known:
            raise NoLayout(f"no original layout is known for the {spec.name} of {architecture.title}")
        own = published(parameters_of(spec.small if small else spec), known[0])
        for name, one in own.items():
            stored = known[0].prefixes[0] + name
            if found.setdefault(stored, one).shape != one.shape:
                raise NoLayout(
                    f"two networks of {architecture.title} would have the tensor {stored!r} differently; they are "
                    "published in files of their own, so write one at a time and name its networks with --network"
                )
    return found


def write_random(file: Path, tensors: Mapping[str, Published], *, seed: int, dtype: str) -> int:
    """Write seeded weights, in little memory; the same seed gives the same bytes.

    Weights of layers have a variance of one over the number of values they sum up, and norms are near one: activations
    stay finite at any depth.

    Args: dtype: one of TYPES, for all networks.

    Returns: bytes written. Raises: StoreFull.
    """
    described, makers = describe(tensors, dtype), _values(tensors, seed, dtype)
    header = encode_header(described)
    size = len(header) + sum(math.prod(shape) * SIZES[word] for word, shape in described.values())
    with whole_file(file, f"{file.name} ({megabytes(size)})") as stream:
        stream.write(header)
        for values in makers:
            stream.write(values)
    return size


def describe(tensors: Mapping[str, Published], dtype: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type (in safetensors' words) and shape of everything a file has, scales included, in its order.

    Args: dtype: one of TYPES.
    """
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, one in tensors.items():
        own = _type_of(name, one, dtype)
        found[name] = (TYPES[own][0], one.shape)
        if own == "float8":
            found[_scale_name(name)] = ("F32", ())
    return found


def _values(tensors: Mapping[str, Published], seed: int, dtype: str) -> Iterator[bytes]:
    """The bytes of all tensors in the order of `describe`."""
    for name, one in tensors.items():
        own = _type_of(name, one, dtype)
        center, spread = _distribution(name, one.shape)
        if own == "float8":
            yield from _normal(name, one.shape, seed, TYPES[own][1], 0.0, FLOAT8_UNIT)
            yield _bytes(torch.tensor(spread / FLOAT8_UNIT))
        else:
            yield from _normal(name, one.shape, seed, TYPES[own][1], center, spread)


def _type_of(name: str, one: Published, dtype: str) -> str:
    if dtype != "float8":
        return dtype
    words = ("embedding", "embed_tokens", "shared", "relative_attention_bias")
    table = any(word in name for word in words)  # looked up, not multiplied with
    matrix = len(one.shape) == 2 and name.endswith(".weight") and one.change is not Change.TRANSPOSED
    return "float8" if matrix and not table else "float16"


def _scale_name(name: str) -> str:
    return name.removesuffix(".weight") + ".scale_weight"


def _distribution(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of a tensor's values."""
    if (summed := math.prod(shape[1:])) > 1:
        return 0.0, summed**-0.5
    scales = name.endswith(("weight", "scale", "gamma", "running_var"))
    return (1.0, 0.05) if scales else (0.0, 0.05)


def _normal(
    name: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype, center: float, spread: float
) -> Iterator[bytes]:
    """Normally distributed values, each name with its own sequence: what else a file has does not matter."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    left = math.prod(shape)
    while left:
        count = min(left, CHUNK)
        values = torch.randn(count, generator=generator).mul_(spread).add_(center)
        yield _bytes(values.to(dtype))
        left -= count


def _bytes(values: torch.Tensor) -> bytes:
    data: bytes = values.reshape(-1).view(torch.uint8).numpy().tobytes()
    return data
