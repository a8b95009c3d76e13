"""Where the model lies that a MODEL on the command line stands for, and whether it changed: read without PyTorch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trt_engines.description import FILE, read_description
from trt_engines.errors import ModelUnusable
from trt_engines.model import Model, find_models, read_model
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint

HEAD = 2**20
"""Bytes at a file's start that are looked at: the header of a safetensors file, or most of it."""

CONVERTED = "checkpoint.safetensors"
"""What a pickled checkpoint becomes, in the model's folder; of one network, with its name and a dash before it."""

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
        return of_model(found, networks)
    path = Path(model).expanduser()
    if not path.exists():
        names = ", ".join(sorted(known)) or "none"
        others = "".join(f"; passed over was {error}" for error in unusable)
        raise UnreadableCheckpoint(
            f"{model!r} is neither a file, a folder nor a known model; known are {names}{others}"
        )
    if (path / FILE).is_file():
        return of_model(read_model(path.absolute()), networks)
    return Located(name=path.name if path.is_dir() else path.stem, path=path.absolute(), networks=networks)


def known_models(models: Path | None, unusable: Callable[[ModelUnusable], None]) -> tuple[Located, ...]:
    """The models that ship and those of a folder, by name. Args: unusable: told of those that are passed over."""
    found = find_models([models] if models else [], unusable=unusable).values()
    return tuple(of_model(one) for one in sorted(found, key=lambda one: one.name))


def of_model(model: Model, networks: tuple[tuple[str, Path], ...] = ()) -> Located:
    """Where the weights of a model lie: those of one that was added where its owner put them, but for pickles.

    Args: networks: as those of `locate`, before the model's own.
    """
    source = read_description(model.folder / FILE).source
    if source is None:
        return Located(name=model.name, path=model.folder, family=model.architecture, networks=networks)
    own = {network: Path(file) for network, file in source.networks.items()}
    places = {"": Path(source.path), **own}
    for network in tuple(places):
        converted = model.folder / (f"{network}-{CONVERTED}" if network else CONVERTED)
        if converted.is_file():
            places[network] = converted
    path = places.pop("")
    return Located(
        name=model.name, path=path, family=model.architecture, networks=tuple({**places, **dict(networks)}.items())
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
