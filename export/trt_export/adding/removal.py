"""Remove a model: only what this worker wrote, never a file that lies where its owner put it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trt_engines.description import FILE, Description, read_description
from trt_engines.errors import ModelUnusable
from trt_engines.model import model_folders
from trt_engines.store.locks import hold
from trt_export.adding.staging import SIDE, lock_of
from trt_export.building.located import CONVERTED


class CannotRemove(Exception):
    """A model was not removed; the message says why. Nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What removing a model comes to."""

    source: Path  # the checkpoint, which stays
    files: tuple[Path, ...]  # of the model's folder, that this worker wrote
    kept: tuple[Path, ...]  # of the same folder, that somebody else put there


def removal_of(models: Path, name: str) -> Removal:
    """What `remove` would do.

    Raises: CannotRemove: there is no such model, or it is none that was added; OSError.
    """
    folder = models / name
    if "/" in name or name.startswith(".") or not folder.is_dir():
        known = ", ".join(one.name for one in model_folders(models)) or "none"
        raise CannotRemove(f"there is no model {name!r} in {models}; there are {known}")
    if folder.is_symlink():
        raise CannotRemove(f"{folder} is a link that this worker did not make: remove it by hand")
    try:
        described = read_description(folder / FILE)
    except ModelUnusable as error:
        raise CannotRemove(f"{error}; what this worker wrote of it cannot be told: remove {folder} by hand") from error
    if described.source is None:
        raise CannotRemove(f"{name} was not added by this worker but put there: remove {folder} by hand")
    own = set(_written(described))
    found = sorted(folder.iterdir())
    ours = [file for file in found if (file.name, file.is_symlink()) in own]
    return Removal(
        source=Path(described.source.path),
        files=tuple(ours),
        kept=tuple(file for file in found if file not in ours),
    )


def remove(models: Path, name: str) -> Removal:
    """Remove a model; what serves it goes on with the files that it has open.

    Raises: CannotRemove, OSError.
    """
    removal_of(models, name)  # nothing is locked for a model that is not there
    with hold(lock_of(models, name)):
        removal = removal_of(models, name)
        # Without its description it is no model any more, whatever happens to the rest.
        for file in sorted(removal.files, key=lambda file: file.name != FILE):
            file.unlink(missing_ok=True)
        if not removal.kept:
            with suppress(OSError):  # somebody has put a file there meanwhile
                (models / name).rmdir()
    return removal


def _written(described: Description) -> Iterator[tuple[str, bool]]:
    """Names in a model's folder that this worker gives, and whether it makes a link of that name."""
    yield FILE, False
    for network, files in described.networks.items():
        for name in (files.graph, files.bindings, SIDE.format(network), f"{network}-{CONVERTED}", CONVERTED):
            if name is not None:
                yield name, False
        for name in files.weights:
            yield name, True
