"""What a `model.json` may say: every field with its range, and every path inside its model folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from trt_engines.errors import ModelUnusable
from trt_engines.small_file import read_small

FILE = "model.json"
MOST_BYTES = 2**20
"""Of the file: a description takes one or two thousand."""

MOST_NAME = 100
"""Characters of a name; both networks cut the names of models there."""

MOST_PATH = 1024
MOST_PART = 255
"""Bytes of a path, and of one of its parts: what Linux file systems take."""

Side = Annotated[int, Meta(ge=8, le=16384, multiple_of=8)]  # pixels
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]  # SHA-256


class DescribedNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The files of one network."""

    weights: Annotated[tuple[str, ...], Meta(min_length=1, max_length=1024)]
    graph: str | None = None
    bindings: str | None = None
    digest: Digest | Literal[""] = ""  # of all weights of the network
    parameters: Annotated[int, Meta(ge=1, le=2**40)] | None = None  # None: as many as the architecture's own size has


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the owner of a checkpoint put it. Paths are absolute."""

    path: str
    networks: dict[str, str] = {}  # files of single networks that lie elsewhere, by network
    architecture: str | None = None  # as its owner named it; None: its files say it
    fingerprint: str = ""  # of its files when it was added, see `trt_export.building.located`; empty: nobody noted it


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A `model.json`. Paths are relative to its folder."""

    name: str
    architecture: str
    networks: dict[str, DescribedNetwork]
    files: dict[str, str] = {}  # names under which recipes ask for the model, by what they are used for
    prediction: Literal["epsilon", "v_prediction", "flow"] | None = None
    shift: Annotated[float, Meta(gt=0.0, le=1000.0)] | None = None
    zero_terminal_snr: bool = False
    sigma_min: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None
    sigma_max: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None
    native_width: Side | None = None
    native_height: Side | None = None
    digests: dict[str, Digest] = {}  # of files, by path
    source: Source | None = None  # None: the folder itself has the weights


def read_description(source: Path) -> Description:
    """Read and check a `model.json`; whether its files exist is not looked at.

    Raises: ModelUnusable: it cannot be read, or a field has no value that can be worked with; names file and field.
    """
    text = read_small(
        source, MOST_BYTES, which="no description of a model has", remedy="a model folder needs a model.json"
    )
    try:
        described = msgspec.json.decode(text, type=Description)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ModelUnusable(f"{source}: {str(error) or type(error).__name__}") from error
    if problem := next(_problems(described), None):
        raise ModelUnusable(f"{source}: {problem}")
    return described


def _problems(described: Description) -> Iterator[str]:
    """What is wrong beyond types and ranges, as `field: reason`."""
    names = {"name": described.name, "architecture": described.architecture}
    names |= {f"files.{use}": name for use, name in described.files.items()}
    for field, name in names.items():
        if problem := problem_with_name(name):
            yield f"{field}: {problem}"
    paths = {f"digests, file {number}": path for number, path in enumerate(described.digests, start=1)}
    for network, files in described.networks.items():
        paths |= {
            f"networks.{network}.weights, file {place}": path for place, path in enumerate(files.weights, start=1)
        }
        named = {"graph": files.graph, "bindings": files.bindings}
        paths |= {f"networks.{network}.{use}": path for use, path in named.items() if path is not None}
    for field, path in paths.items():
        if problem := problem_with_path(path):
            yield f"{field}: {problem}"


def problem_with_name(name: str) -> str:
    """Why a text is no name of a model, as the end of a sentence; empty: it is one."""
    if not 0 < len(name) <= MOST_NAME:
        return f"has {len(name)} characters; a name has 1 to {MOST_NAME}"
    if not name.isprintable() or name != name.strip():
        return f"is {name!r}; a name is printable text without space around it"
    return ""


def problem_with_path(path: str) -> str:
    """Why a text is no path inside a model's folder, as the end of a sentence; empty: it is one."""
    if not path.isprintable():
        return f"is {path[:MOST_NAME]!r}; a path is printable text"
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        return f"is {path[:MOST_NAME]!r}; a path names a file inside the model's folder"
    if len(path.encode()) > MOST_PATH or max(len(part.encode()) for part in parts) > MOST_PART:
        return f"begins {path[:MOST_NAME]!r} and is longer than a file's path can be"
    return ""
