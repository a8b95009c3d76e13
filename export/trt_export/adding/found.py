"""Checkpoints that lie where a worker looks, and were not added yet: found without reading them.

What came of each is noted beside the models, so that a file that cannot be added is told of once, and not at every
start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from trt_engines.description import FILE, read_description
from trt_engines.errors import ModelUnusable
from trt_engines.model import model_folders
from trt_engines.store.files import write_whole
from trt_export.adding.wanted import Wanted, looks_of, of_source

NOTES = ".not-added.json"
"""Name of the file of notes, in the folder of models."""

FOLDERS = ("compvis", "checkpoints", "Stable-diffusion", "diffusers")
"""Where the Horde's worker, ComfyUI, A1111's web interface and diffusers keep models that are complete."""

WHOLE = frozenset({".safetensors", ".sft", ".ckpt"})
"""Endings of files that may be a complete model."""

DIFFUSERS = "model_index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What lies there."""

    new: tuple[Wanted, ...] = ()
    changed: tuple[Wanted, ...] = ()  # of models that were added; each is to be added anew
    gone: tuple[Wanted, ...] = ()  # of models that were added, and are not there any more


class _Note(msgspec.Struct, frozen=True):
    fingerprint: str
    reason: str


@dataclass(slots=True)
class Notes:
    """Checkpoints that are not to be added, as long as they look the same.

    Nothing depends on them but what is said and tried again: notes that cannot be read are none.
    """

    models: Path
    _notes: dict[str, _Note] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with suppress(OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
            self._notes = msgspec.json.decode((self.models / NOTES).read_bytes(), type=dict[str, _Note])

    def keep(self, wanted: Wanted, looks: str, reason: str) -> None:
        """Note why a checkpoint that looked like this is not to be added. Raises: OSError, StoreFull."""
        self._notes[str(wanted.path)] = _Note(fingerprint=looks, reason=reason)
        self._write()

    def forget(self, path: Path) -> None:
        """Nothing speaks against a checkpoint any more. Raises: OSError, StoreFull."""
        if self._notes.pop(str(path), None) is not None:
            self._write()

    def holds(self, wanted: Wanted) -> bool:
        """Whether a checkpoint is not to be added, as it looks now."""
        note = self._notes.get(str(wanted.path))
        return note is not None and note.fingerprint == looks_of(wanted)

    def _write(self) -> None:
        write_whole(self.models / NOTES, msgspec.json.format(msgspec.json.encode(self._notes), indent=2))


def survey(models: Path, custom: Sequence[Wanted], notes: Notes) -> Survey:
    """Compare the models of a folder with the checkpoints that lie there, and with those that are named.

    Args: custom: checkpoints that their owner has named; they go before what is found.
    """
    known = [one for folder in model_folders(models) if (one := _known(folder)) is not None]
    added = {(one.path, one.name) for one, _ in known}
    named = {one.path for one, _ in known} | {one.path for one in custom}
    taken = {one.model for one, _ in known} | {one.model for one in custom}
    new = [one for one in custom if (one.path, one.name) not in added and not notes.holds(one)]
    for path in _lying(models):
        found = Wanted(path=path)
        if path not in named and found.model not in taken and not notes.holds(found):
            new.append(found)
            taken.add(found.model)  # of several of a name, the first that is found
    there = [(one, looks) for one, looks in known if one.path.exists()]
    return Survey(
        new=tuple(new),
        changed=tuple(one for one, looks in there if looks and looks_of(one) != looks and not notes.holds(one)),
        gone=tuple(one for one, _ in known if not one.path.exists()),
    )


def added_from(models: Path, wanted: Wanted) -> str | None:
    """The name of the model that was added from a checkpoint and that its checkpoint still is; None: there is none."""
    for folder in model_folders(models):
        known = _known(folder)
        if known is None or (known[0].path, known[0].networks) != (wanted.path, wanted.networks):
            continue
        if known[1] == looks_of(known[0]):
            return known[0].model
    return None


def _known(folder: Path) -> tuple[Wanted, str] | None:
    """The checkpoint of a model and what it looked like when it was added; None: the model has none."""
    try:
        source = read_description(folder / FILE).source
    except ModelUnusable:
        return None  # said by whoever offers models
    if source is None:
        return None
    return of_source(folder.name, source), source.fingerprint


def _lying(models: Path) -> Iterator[Path]:
    """Files and diffusers' folders that may be complete models, in the folder of models and in those it has."""
    for folder in (models, *(models / name for name in FOLDERS)):
        with suppress(OSError):
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                path = Path(entry.path)
                if entry.name.startswith("."):
                    continue
                if (path.suffix.lower() in WHOLE and entry.is_file()) or (path / DIFFUSERS).is_file():
                    yield path.absolute()
