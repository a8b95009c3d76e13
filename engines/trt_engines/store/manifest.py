"""The manifest of a stored engine: what it is, what it passed, which files it has."""

from __future__ import annotations

import re
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from trt_engines.store.errors import DamagedEngine, NewerManifest
from trt_engines.store.identity import IDENTITY_SCHEMA, Identity, digest

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = 2
LARGEST_MANIFEST = 8 * 2**20
"""Bytes; a manifest is a few kilobytes, and one from an archive is not to fill the memory."""

DEEPEST_FIGURES = 16
"""Levels of a certificate's figures; they have two or three, and deeper ones are nothing that a certifier writes."""

PLAN, GRAPH = "engine.plan", "graph.onnx"
"""Files of an engine: what the library made and loads, and what it was compiled from, without weights."""

USED, DAMAGED, PHASES, KERNELS = "used", "damaged", "phases", "kernels"
_RESERVED = frozenset({MANIFEST, USED, DAMAGED, PHASES, KERNELS})
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A published file."""

    size: Annotated[int, msgspec.Meta(ge=0)]  # bytes
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the engine compares with the reference; figures are the certifier's own (infinite ones are kept as null)."""

    verdict: Literal["passed", "failed"]
    figures: dict[str, Any] = {}


class PhaseCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one phase of the build took."""

    name: str
    seconds: float
    peak_bytes: int  # resident memory at its highest; 0: not measured


class DeviceMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the engine takes of a card, in bytes, as its builder told."""

    weights: Annotated[int, msgspec.Meta(ge=0)]
    activations: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]  # of each profile at its largest shapes


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that is known about an engine besides its bytes."""

    schema: int = MANIFEST_SCHEMA
    identity: Identity
    models: tuple[str, ...]
    certificate: Certificate
    files: dict[str, FileEntry]
    phases: tuple[PhaseCost, ...]
    created: datetime  # UTC
    log: tuple[str, ...] = ()  # of the library
    reproducible: str = ""  # which part differs from build to build; empty: none
    memory: DeviceMemory | None = None  # None: the builder did not tell

    @property
    def digest(self) -> str:
        """Name of the engine."""
        return digest(self.identity)

    @property
    def passed(self) -> bool:
        """Whether the engine may be served."""
        return self.certificate.verdict == "passed"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    @property
    def seconds(self) -> float:
        """Build time of all phases."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def peak_bytes(self) -> int:
        """Highest resident memory of any phase."""
        return max((phase.peak_bytes for phase in self.phases), default=0)


class _Schema(msgspec.Struct):
    schema: int


def check_file_name(name: str) -> str:
    """The name, if a published file may have it: a plain one, so that no path leads out of the engine's folder.

    Raises: ValueError.
    """
    if not _FILE_NAME.fullmatch(name) or name in _RESERVED:
        raise ValueError(f"{name!r} cannot name a file of an engine: letters, digits, '.', '_' and '-' only")
    return name


def encode_manifest(manifest: Manifest) -> bytes:
    """Manifest as indented JSON."""
    return msgspec.json.format(_ENCODER.encode(manifest), indent=1) + b"\n"


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest.

    Args:
        where: named in errors, such as the path of the file.

    Raises: NewerManifest; DamagedEngine: not a manifest, or one with impossible values.
    """
    try:
        schema = _SCHEMA.decode(data).schema
        if schema > MANIFEST_SCHEMA:
            raise NewerManifest(
                f"{where} was made by a newer worker (manifest schema {schema}, this one reads up to "
                f"{MANIFEST_SCHEMA}): update this worker, or rebuild the engine with it"
            )
        manifest = _DECODER.decode(data)
        for name in manifest.files:
            check_file_name(name)
        _check_depth(manifest.certificate.figures)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # DecodeError covers validation
        raise DamagedEngine(
            f"{where} is no manifest that can be read ({error}): rebuild or import the engine"
        ) from error
    if manifest.identity.schema > IDENTITY_SCHEMA:
        raise NewerManifest(
            f"{where} was made by a newer worker (identity schema {manifest.identity.schema}, this one knows up to "
            f"{IDENTITY_SCHEMA}): update this worker, or rebuild the engine with it"
        )
    if manifest.schema < 1 or not manifest.files:
        raise DamagedEngine(f"{where} has schema {schema} and names no files: rebuild or import the engine")
    return manifest


def _check_depth(figures: dict[str, Any]) -> None:
    """Raises: ValueError: figures are nested deeper than DEEPEST_FIGURES."""
    level: list[Any] = [figures]
    for _ in range(DEEPEST_FIGURES):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [value for values in inner for value in values]
        if not level:
            return
    raise ValueError(f"the figures of its certificate are nested more than {DEEPEST_FIGURES} deep")


def _plain(value: object) -> object:
    if isinstance(value, MappingProxyType):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no place in a manifest")


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)
_SCHEMA = msgspec.json.Decoder(_Schema)
_DECODER = msgspec.json.Decoder(Manifest)
