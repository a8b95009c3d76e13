"""A published engine: reading it without ever handing out bytes that are not the published ones."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trt_engines.store.errors import DamagedEngine, StoreFull
from trt_engines.store.files import describe, write_whole
from trt_engines.store.manifest import DAMAGED, MANIFEST, USED, Manifest, decode_manifest

FileState = tuple[int, int, int, int, str]
"""A file as it was seen: device, inode, bytes, time of its last change in nanoseconds, and the hash it must have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An engine in the store, whose manifest was read and whose files have the right sizes."""

    digest: str
    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """Where a file of the engine lies. Raises: KeyError: it has none of this name."""
        if name not in self.manifest.files:
            raise KeyError(f"engine {self.digest[:12]} has no file {name!r}, only {', '.join(self.manifest.files)}")
        return self.folder / name

    def read(self, name: str, verified: set[FileState] | None = None) -> memoryview:
        """The bytes of a file, mapped read-only and compared with the manifest's hash: what a loader is given.

        Args:
            verified: files that the caller knows to be sound, and is not to wait for again; this one is added.
        Raises: DamagedEngine: from then on the engine counts as damaged for everybody. KeyError: no such file.
        """
        entry = self.manifest.files[name]
        with self.path(name).open("rb") as file:
            found = os.fstat(file.fileno())
            size = found.st_size
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
        state: FileState = (found.st_dev, found.st_ino, size, found.st_mtime_ns, entry.sha256)
        if verified is not None and state in verified:
            return data
        problem = _difference(name, entry.size, size) or _difference(
            name, entry.sha256, hashlib.sha256(data).hexdigest()
        )
        if not problem and verified is not None:
            verified.add(state)
        if problem and read_manifest(self.folder) != self.manifest:
            raise DamagedEngine(f"engine {self.digest[:12]} was replaced while it was read: look it up again")
        if problem:
            raise mark_damaged(self.folder, (problem,))
        return data

    @contextmanager
    def mapped(self, name: str, verified: set[FileState] | None = None) -> Iterator[memoryview]:
        """As `read`, and unmapped when the block ends, which must hold no part of the bytes any more.

        Pages of a mapping are the system's file cache: it is no copy, and what is mapped can be taken back any time.
        """
        data = self.read(name, verified)
        mapping = data.obj
        try:
            yield data
        finally:
            data.release()
            if isinstance(mapping, mmap.mmap):
                mapping.close()

    def mark_used(self) -> None:
        """Note the use, which keeps an engine from being pruned for room. Raises: OSError: the store is read-only."""
        (self.folder / USED).touch()

    @property
    def last_used(self) -> float:
        """Seconds since 1970; the time of publication if it was never used."""
        try:
            return (self.folder / USED).stat().st_mtime
        except FileNotFoundError:
            return self.manifest.created.timestamp()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an engine's folder; None if the folder is not there. Raises: DamagedEngine, NewerManifest."""
    path = folder / MANIFEST
    try:
        return decode_manifest(path.read_bytes(), str(path))
    except FileNotFoundError:
        if folder.exists():
            raise DamagedEngine(f"{folder} has no {MANIFEST}: rebuild or import the engine") from None
        return None


def read_stored(folder: Path) -> Stored | None:
    """The engine in a folder, judged by its manifest and its files' sizes; None if there is none.

    Raises: DamagedEngine, NewerManifest.
    """
    path = folder / MANIFEST
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    if manifest.digest != folder.name:
        raise DamagedEngine(
            f"{path} describes engine {manifest.digest[:12]}, not the one its folder is named for: rebuild it"
        )
    try:
        marked = (folder / DAMAGED).read_text()
    except FileNotFoundError:
        marked = ""
    if problems := (marked,) if marked else _size_problems(folder, manifest):
        if not path.exists():  # removed by another process while it was looked at
            return None
        raise _damaged(folder, problems)
    return Stored(digest=folder.name, folder=folder, manifest=manifest)


def verify_stored(folder: Path) -> Stored:
    """Compare every byte of an engine with its manifest.

    Damage is noted in the folder, so that nobody is given the engine any more; a sound one loses such a note.

    Raises: DamagedEngine, NewerManifest; FileNotFoundError: there is no such engine.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise FileNotFoundError(f"there is no engine in {folder}")
    problems = _size_problems(folder, manifest)
    if not problems:
        pairs = ((name, entry.sha256, describe(folder / name).sha256) for name, entry in manifest.files.items())
        problems = tuple(text for one in pairs if (text := _difference(*one)))
    if problems:
        raise mark_damaged(folder, problems)
    (folder / DAMAGED).unlink(missing_ok=True)
    found = read_stored(folder)
    if found is None:
        raise FileNotFoundError(f"{folder} was removed while it was verified")
    return found


def mark_damaged(folder: Path, problems: tuple[str, ...]) -> DamagedEngine:
    """Note in the folder that the engine is damaged; gives the error to raise."""
    error = _damaged(folder, problems)
    try:
        write_whole(folder / DAMAGED, "; ".join(problems).encode())
    except (OSError, StoreFull) as reason:
        error.add_note(f"This could not be noted beside the engine: {reason}")
    return error


def _damaged(folder: Path, problems: tuple[str, ...]) -> DamagedEngine:
    return DamagedEngine(
        f"engine {folder.name[:12]} in {folder} is damaged: {'; '.join(problems)}. It is not served; rebuild or import "
        "it, and look at the disk if this happens again"
    )


def _size_problems(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    problems = []
    for name, entry in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except FileNotFoundError:
            problems.append(f"{name} is missing")
            continue
        if text := _difference(name, entry.size, size):
            problems.append(text)
    return tuple(problems)


def _difference(name: str, published: int | str, found: int | str) -> str:
    if published == found:
        return ""
    if isinstance(published, int):
        return f"{name} has {found:,} bytes, {published:,} were published"
    return f"{name} has other bytes than were published (SHA-256 {str(found)[:12]}, not {published[:12]})"
