"""A model's folder is written where nobody reads, and takes its place when it is whole.

Folders whose names begin with a dot are no models (see `find_models`), so that an add that is killed leaves nothing
that is served. What it leaves is removed by the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trt_engines.store.files import remove_tree
from trt_engines.store.locks import hold_if_free

SIDE = "side-{}.safetensors"
"""File of those of a network's weights that cannot be bound where they lie."""

_NEW, _OLD = "new", "old"
_LEFT = re.compile(rf"\.(?P<name>.+)\.(?P<what>{_NEW}|{_OLD})")


def lock_of(models: Path, name: str) -> Path:
    """The lock that is held while a model is added or removed."""
    return models / f".{name}.lock"


@contextmanager
def staged(models: Path, name: str) -> Iterator[Path]:
    """An empty folder for a model, whose lock is held. It is removed, if it was not published."""
    folder = models / f".{name}.{_NEW}"
    _remove(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        _remove(folder)


def publish(folder: Path, place: Path) -> None:
    """Give a staged folder its place; what was there before goes when it has it."""
    if not place.exists():
        folder.rename(place)
        return
    old = place.with_name(f".{place.name}.{_OLD}")
    _remove(old)
    place.rename(old)
    folder.rename(place)
    _remove(old)


def tidy(models: Path) -> None:
    """Remove what killed adds have left, and put back what one was about to replace. Raises: OSError."""
    for folder in models.glob(".*"):
        if (left := _LEFT.fullmatch(folder.name)) is None or not folder.is_dir():
            continue
        with hold_if_free(lock_of(models, left["name"])) as free:
            if not free:
                continue  # another process is at it now
            place = models / left["name"]
            if left["what"] == _OLD and not place.exists():
                folder.rename(place)
            else:
                _remove(folder)


def _remove(folder: Path) -> None:
    if folder.exists():
        remove_tree(folder)
