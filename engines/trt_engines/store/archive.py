"""An engine as one file, for a rig that did not build it: a plain tar of its folder with the manifest first.

The folder's name is the engine's digest, so that a changed identity in the manifest is noticed like any other change.
What is verified is that the engine arrives as it was exported, not who exported it: import from rigs you trust.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trt_engines.store.errors import BadArchive, DamagedEngine, UncertifiedEngine, UnknownEngine
from trt_engines.store.files import megabytes, remove_tree, require_room, room_for, whole_file, write_whole
from trt_engines.store.manifest import LARGEST_MANIFEST, MANIFEST, FileEntry, Manifest, decode_manifest, encode_manifest
from trt_engines.store.store import Store
from trt_engines.store.stored import Stored

_CHUNK = 4 * 2**20


def export_engine(store: Store, name: str, target: Path) -> Path:
    """Write an engine to one file, which appears whole or not at all.

    The same engine always gives the same bytes: the archive holds no times, users or rights.

    Args:
        name: the engine's digest.
        target: a file, or a folder in which the archive is named after the engine.

    Raises: UnknownEngine, NewerManifest, StoreFull, OSError. DamagedEngine: its bytes are not the published ones.
        UncertifiedEngine: it is not to be served anywhere.
    """
    stored = store.get(name)
    if not stored.manifest.passed:
        raise UncertifiedEngine(f"engine {name[:12]} failed its fidelity certificate: it is not exported")
    if target.is_dir():
        target = target / f"engine-{name[:16]}.tar"
    what = f"the archive {target.name}"
    require_room(target.parent, what, stored.manifest.size)
    with (
        whole_file(target, f"{what} ({megabytes(stored.manifest.size)})") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        header = encode_manifest(stored.manifest)
        archive.addfile(_member(f"{name}/{MANIFEST}", len(header)), io.BytesIO(header))
        for one in stored.manifest.files:
            with stored.mapped(one) as data:
                archive.addfile(_member(f"{name}/{one}", data.nbytes), _Bytes(data))
    return target


def import_engine(store: Store, archive: Path) -> Stored:
    """Bring an engine from an archive into the store, once all of it has been compared with its manifest.

    An engine that is here already, and sound, is left alone.

    Raises: BadArchive: cut short, foreign, tampered with. NewerManifest: it, or the one that is here, was made by a
        newer worker. UncertifiedEngine, StoreFull.
        OSError: the archive cannot be opened.
    """
    with archive.open("rb") as file:
        with _reading(archive):
            members = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (closed below)
        with members:
            return _import(store, members, archive)


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Around calls of `tarfile` alone: whatever it raises about a file that somebody else made is a BadArchive.

    A sparse file's entries that are no numbers end as its ValueError, a header within itself as its RecursionError.
    """
    try:
        yield
    except (tarfile.TarError, EOFError, ValueError, LookupError, ArithmeticError, TypeError, RecursionError) as error:
        raise BadArchive(
            f"{archive} is no archive of an engine, or was cut short ({error!s:.200}): copy it again"
        ) from error


def _next(members: tarfile.TarFile, archive: Path) -> tarfile.TarInfo | None:
    with _reading(archive):
        return members.next()


def _import(store: Store, members: tarfile.TarFile, archive: Path) -> Stored:
    manifest = _manifest(members, archive)
    name = manifest.digest
    with store.holding(name):
        try:
            here = store.get(name)
        except (UnknownEngine, DamagedEngine):
            here = None  # an engine that a newer worker wrote is neither: it stays, and says so
        if here is not None and here.manifest.passed:
            return here
        staging = store.staging / f"import-{name}"
        if staging.exists():  # of an import that was killed; the lock says that nobody is at it
            remove_tree(staging)
        require_room(staging, f"engine {name[:12]}", manifest.size)
        try:
            with room_for(staging, f"engine {name[:12]} ({megabytes(manifest.size)})"):
                staging.mkdir(parents=True)
                _unpack(members, manifest, staging, archive)
            write_whole(staging / MANIFEST, encode_manifest(manifest))
            stored = store.publish(staging, name)
        except BaseException:
            if staging.exists():
                remove_tree(staging)
            raise
        if (store.staging / name).exists():  # a stopped build of the same engine has nothing left to do
            remove_tree(store.staging / name)
        return stored


def _manifest(members: tarfile.TarFile, archive: Path) -> Manifest:
    first = _next(members, archive)
    if (
        first is None
        or not first.name.endswith(f"/{MANIFEST}")
        or not first.isreg()
        or first.issparse()
        or first.size > LARGEST_MANIFEST
    ):
        raise BadArchive(f"{archive} does not begin with a {MANIFEST}: it is no archive of an engine")
    try:
        with _reading(archive):
            data = _open(members, first, archive).read()
        manifest = decode_manifest(data, f"{archive}: {MANIFEST}")
    except DamagedEngine as error:
        raise BadArchive(str(error)) from error
    if first.name != f"{manifest.digest}/{MANIFEST}":
        raise BadArchive(f"{archive}: its manifest describes another engine than it was named for: copy it again")
    if not manifest.passed:
        raise UncertifiedEngine(f"{archive}: this engine failed its fidelity certificate and is not imported")
    return manifest


def _unpack(members: tarfile.TarFile, manifest: Manifest, folder: Path, archive: Path) -> None:
    """Write the files, each held to the manifest, which alone says what they are called and where they go."""
    missing = {f"{manifest.digest}/{name}": entry for name, entry in manifest.files.items()}
    while (member := _next(members, archive)) is not None:
        if not member.isreg() or member.issparse():
            raise BadArchive(f"{archive}: {member.name!r} is no plain file; nothing was imported")
        entry = missing.pop(member.name, None)
        if entry is None:
            raise BadArchive(
                f"{archive}: {member.name!r} is not in its manifest, or is there twice; nothing was imported"
            )
        if member.size != entry.size:
            raise BadArchive(
                f"{archive}: {member.name} has {member.size:,} bytes, its manifest says {entry.size:,}; "
                "nothing was imported"
            )
        found = _copy(_open(members, member, archive), folder / member.name.rpartition("/")[2], archive)
        if found != entry:
            raise BadArchive(
                f"{archive}: {member.name} has other bytes than its manifest says (SHA-256 {found.sha256[:12]}, not "
                f"{entry.sha256[:12]}): copy the archive again; nothing was imported"
            )
    if missing:
        names = ", ".join(name.rpartition("/")[2] for name in missing)
        raise BadArchive(f"{archive} was cut short: {names} missing; copy it again, nothing was imported")


def _open(members: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> IO[bytes]:
    file = members.extractfile(member)
    if file is None:
        raise BadArchive(f"{archive}: {member.name!r} is no plain file; nothing was imported")
    return file


def _copy(source: IO[bytes], target: Path, archive: Path) -> FileEntry:
    sha256, size = hashlib.sha256(), 0

    def read() -> bytes:
        with _reading(archive):
            return source.read(_CHUNK)

    with target.open("xb") as file:
        while chunk := read():
            sha256.update(chunk)
            size += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(size=size, sha256=sha256.hexdigest())


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


class _Bytes(io.RawIOBase):
    """A mapped file as a stream, without a copy of the whole."""

    def __init__(self, data: memoryview) -> None:
        super().__init__()
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._data[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
