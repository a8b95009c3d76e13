"""What decides an engine's bytes, and the hash of it that names the engine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

IDENTITY_SCHEMA = 2
"""Raised whenever a field is added or changes its meaning, or networks take or give something else under the same
names: engines of another schema are other engines, and those of an older one are not served.

1: U-Nets take multiples of all their halvings, and a text encoder's layers begin at the last that the family uses.
2: U-Nets take any size, and layers begin at the last one there is.
"""

_SHA256 = re.compile(r"[0-9a-f]{64}")

FlagValue = bool | int | str
"""Values of builder flags. Floats are left out: they have no canonical text, write them as strings."""


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class InputRange:
    """Shapes of one input in one optimisation profile, in elements per axis."""

    name: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError(f"input {self.name!r}: min, opt and max have different numbers of axes")
        if not all(low <= best <= high for low, best, high in zip(self.min, self.opt, self.max, strict=True)):
            raise ValueError(
                f"input {self.name!r}: min <= opt <= max does not hold: {self.min}, {self.opt}, {self.max}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Everything that decides an engine's bytes.

    What has no order (inputs of a profile, compute capabilities, flags) is brought into one, so that equal engines have
    equal identities. The order of the profiles counts: a profile is chosen by its number.
    """

    architecture: str  # "stable_diffusion_1", ...
    component: str  # "denoiser", ...
    graph: str  # SHA-256 of the graph file, hex
    weights: str  # digest over name, type, shape and content of every weight, hex
    precision: str  # "float16", ...
    profiles: tuple[tuple[InputRange, ...], ...]
    flags: Mapping[str, FlagValue]  # of the builder
    library: str  # "tensorrt-rtx" or "tensorrt"
    library_version: str
    compute_capabilities: tuple[int, ...]  # times ten: (86, 89)
    driver_class: str = ""  # what of the driver matters; "" for engines built ahead of time
    schema: int = IDENTITY_SCHEMA

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.graph):
            raise ValueError(f"the graph's digest must be 64 hexadecimal digits, not {self.graph!r}")
        if not re.fullmatch(r"[0-9a-f]{16,128}", self.weights):
            raise ValueError(f"the weights' digest must be 16 to 128 hexadecimal digits, not {self.weights!r}")
        profiles = tuple(tuple(sorted(profile)) for profile in self.profiles)
        for profile in profiles:
            names = [one.name for one in profile]
            if len(set(names)) != len(names):
                raise ValueError(f"a profile names an input twice: {', '.join(names)}")
        object.__setattr__(self, "profiles", profiles)
        object.__setattr__(self, "flags", MappingProxyType(dict(sorted(self.flags.items()))))
        object.__setattr__(self, "compute_capabilities", tuple(sorted(set(self.compute_capabilities))))


def document(identity: Identity) -> dict[str, object]:
    """The identity as plain values, as it stands in a manifest."""
    fields = {name: getattr(identity, name) for name in Identity.__dataclass_fields__}
    fields["profiles"] = [[asdict(one) for one in profile] for profile in identity.profiles]
    fields["flags"] = dict(identity.flags)
    return fields


def digest(identity: Identity) -> str:
    """Name of the engine: SHA-256, 64 hexadecimal digits, of the identity as JSON with sorted keys and no spaces."""
    text = json.dumps(document(identity), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
