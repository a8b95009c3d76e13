"""Where the model lies that a MODEL on the command line stands for, and whether it changed: read without PyTorch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trt_engines.errors import ModelUnusable
from trt_engines.model import find_models, read_model
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint

HEAD = 2**20
"""Bytes at a file's start that are looked at: the header of a safetensors file, or most of it."""

READ = frozenset({".safetensors", ".sft", ".json"})
"""Files of a model's folder that decide its engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A model on disk."""

    name: str
    path: Path
    family: str | None = None  # its architecture, where it is known without looking at its weights
    networks: tuple[tuple[str, Path], ...] = ()  # those whose files lie elsewhere, by component or folder


def locate(model: str, models: Path | None = None, networks: tuple[tuple[str, Path], ...] = ()) -> Located:
    """The model of a name, or at a path.

    Args:
        model: a model folder's name; or a path: a model folder, a diffusers folder or a safetensors file.
        models: folder of further model folders.
        networks: files or folders of single networks that are not where the others are, by component or folder.

    Raises: UnreadableCheckpoint, ModelUnusable.
    """
    for name, place in networks:
        if not place.exists():
            raise UnreadableCheckpoint(f"{place}, where the {name} should be, does not exist")
    unusable: list[ModelUnusable] = []
    known = find_models([models] if models else [], unusable=unusable.append)
    if found := known.get(model):
        return Located(name=found.name, path=found.folder, family=found.architecture, networks=networks)
    path = Path(model).expanduser()
    if not path.exists():
        names = ", ".join(sorted(known)) or "none"
        others = "".join(f"; passed over was {error}" for error in unusable)
        raise UnreadableCheckpoint(
            f"{model!r} is neither a file, a folder nor a known model; known are {names}{others}"
        )
    if (path / "model.json").is_file():
        described = read_model(path)
        return Located(name=described.name, path=path.absolute(), family=described.architecture, networks=networks)
    return Located(name=path.name if path.is_dir() else path.stem, path=path.absolute(), networks=networks)


def known_models(models: Path | None, unusable: Callable[[ModelUnusable], None]) -> tuple[Located, ...]:
    """The models that ship and those of a folder, by name. Args: unusable: told of those that are passed over."""
    found = find_models([models] if models else [], unusable=unusable).values()
    return tuple(
        Located(name=one.name, path=one.folder, family=one.architecture)
        for one in sorted(found, key=lambda one: one.name)
    )


def fingerprint(located: Located) -> str:
    """SHA-256 over what tells that a model's files changed: names, sizes, times and how each begins.

    Weights are not read: a file that was changed in place without its time is taken for the old one.

    Raises: OSError.
    """
    total = hashlib.sha256()
    roots = (located.path, *(place for _, place in located.networks))
    files = [file for root in roots for file in (sorted(_read_of(root)) if root.is_dir() else [root])]
    for file in files:
        status = file.stat()
        total.update(f"{file}\n{status.st_size} {status.st_mtime_ns}\n".encode())
        with file.open("rb") as stream:
            total.update(stream.read(HEAD))
    return total.hexdigest()


def _read_of(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.suffix.lower() in READ)
