"""An engine that is being built: phases that are finished outlive the process that finished them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from trt_engines.store.errors import DamagedEngine
from trt_engines.store.files import describe, keep_only, room_for, sync, write_whole
from trt_engines.store.identity import Identity
from trt_engines.store.manifest import (
    MANIFEST,
    PHASES,
    Certificate,
    DeviceMemory,
    FileEntry,
    Manifest,
    PhaseCost,
    check_file_name,
    encode_manifest,
)
from trt_engines.store.stored import Stored

_LOG_LINES = 500
"""Lines of a phase's log that are kept: the last ones, where errors and summaries stand."""

_PHASE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Phase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A finished phase, as it is kept for a build that goes on later."""

    name: str
    files: dict[str, FileEntry]
    seconds: float
    peak_bytes: int
    log: tuple[str, ...]
    notes: dict[str, Any]  # what the phase found out, for the phases after it


class Staging:
    """The folder in which one engine is built; its digest's lock is held as long as this is open.

    `published` is set when the engine stands in the store: another process may have built it meanwhile.
    """

    def __init__(self, identity: Identity, folder: Path, finish: Callable[[], Stored]) -> None:
        self.identity = identity
        self.folder = folder
        self.published: Stored | None = None
        self._finish = finish
        self._phases: dict[str, Phase] = {}
        self._sound: set[str] = set()  # phases whose files' bytes were compared since this was opened

    def open(self) -> None:
        """Take up what an earlier build finished and remove what it left half done. Raises: OSError, StoreFull."""
        with room_for(self.folder, "the folder of a build"):
            (self.folder / PHASES).mkdir(parents=True, exist_ok=True)
        for path in sorted((self.folder / PHASES).glob("*.json"), key=lambda one: one.stat().st_mtime_ns):
            phase = _read_phase(path)
            if phase is None or not all(_has_size(self.folder / name, one) for name, one in phase.files.items()):
                path.unlink()
            else:
                self._phases[phase.name] = phase
        self.clean()

    def path(self, name: str) -> Path:
        """Where to write a file of this build. Raises: ValueError: not a plain file name."""
        return self.folder / check_file_name(name)

    def write(self, name: str, data: bytes | bytearray | memoryview) -> Path:
        """Write a file of this build, whole and durable. Raises: StoreFull, which says how much was needed."""
        path = self.path(name)
        write_whole(path, data)
        return path

    def done(self, name: str) -> Phase | None:
        """A phase that was finished, now or by an earlier process, if its files are still what they were."""
        phase = self._phases.get(name)
        if phase is None or name in self._sound:
            return phase
        if all(_is_same(self.folder / file, entry) for file, entry in phase.files.items()):
            self._sound.add(name)
            return phase
        self._forget(name)
        return None

    def phase_done(
        self,
        name: str,
        files: Sequence[str] = (),
        *,
        seconds: float,
        peak_bytes: int = 0,
        log: Sequence[str] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> Phase:
        """Record that a phase is finished; a killed build goes on after it.

        Args:
            files: it made, by name; they are brought to the disk and hashed.
            notes: for later phases, plain JSON values.

        Raises: StoreFull, OSError. ValueError: a name that is not allowed.
        """
        if not _PHASE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a phase: small letters, digits, '_' and '-' only")
        with room_for(self.folder, f"the files of phase {name}"):
            for file in files:
                sync(self.path(file))
            sync(self.folder)
        phase = Phase(
            name=name,
            files={file: describe(self.path(file)) for file in files},
            seconds=seconds,
            peak_bytes=peak_bytes,
            log=_shortened(log),
            notes=dict(notes or {}),
        )
        write_whole(self._record(name), msgspec.json.encode(phase))
        self._phases[name] = phase
        self._sound.add(name)
        return phase

    def publish(
        self,
        *,
        models: Sequence[str],
        certificate: Certificate,
        files: Sequence[str],
        reproducible: str = "",
        memory: DeviceMemory | None = None,
    ) -> Stored:
        """Make the engine visible to everybody, in one step; the other files of the build are removed.

        Args:
            models: names of the models it was built for.
            files: that make up the engine; each was made by a finished phase.
            reproducible: which part of the bytes differs from build to build; empty: none.
            memory: what it takes of a card, as far as its builder told.

        Raises: DamagedEngine: a file changed since its phase ended (the phase is forgotten, build again).
            StoreFull, OSError. ValueError: a file of no phase.
        """
        manifest = Manifest(
            identity=self.identity,
            models=tuple(models),
            certificate=certificate,
            files={name: self._published_entry(name) for name in files},
            phases=tuple(
                PhaseCost(name=phase.name, seconds=phase.seconds, peak_bytes=phase.peak_bytes)
                for phase in self._phases.values()
            ),
            created=datetime.now(UTC),
            log=tuple(line for phase in self._phases.values() for line in phase.log),
            reproducible=reproducible,
            memory=memory,
        )
        write_whole(self.folder / MANIFEST, encode_manifest(manifest))
        self.published = self._finish()
        return self.published

    def clean(self) -> None:
        """Remove files of no finished phase. Raises: OSError."""
        keep_only(self.folder, {PHASES, *(name for phase in self._phases.values() for name in phase.files)})

    def _published_entry(self, name: str) -> FileEntry:
        for phase in tuple(self._phases.values()):
            if name in phase.files:
                if self.done(phase.name) is None:
                    raise DamagedEngine(f"{self.folder / name} changed after phase {phase.name} ended: build it again")
                return phase.files[name]
        raise ValueError(f"{name!r} was made by no finished phase: {', '.join(self._phases) or 'there is none'}")

    def _forget(self, name: str) -> None:
        self._record(name).unlink(missing_ok=True)
        del self._phases[name]

    def _record(self, name: str) -> Path:
        return self.folder / PHASES / f"{name}.json"


def _read_phase(path: Path) -> Phase | None:
    try:
        phase = msgspec.json.decode(path.read_bytes(), type=Phase)
        names = {check_file_name(name) for name in phase.files}
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return None  # the phase counts as not done and is run again
    return phase if phase.name == path.stem and len(names) == len(phase.files) else None


def _has_size(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.size


def _is_same(path: Path, entry: FileEntry) -> bool:
    return _has_size(path, entry) and describe(path) == entry


def _shortened(log: Sequence[str]) -> tuple[str, ...]:
    if len(log) <= _LOG_LINES:
        return tuple(log)
    return (f"({len(log) - _LOG_LINES} earlier lines left out)", *log[-_LOG_LINES:])
