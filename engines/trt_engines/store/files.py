"""Files that are whole or absent: hashes, durable writes, removal, and the translation of a full disk."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from trt_engines.store.errors import StoreFull
from trt_engines.store.manifest import FileEntry

# A quota and a file size limit are met like a full disk: what lies there stays, and the operator makes room.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def describe(path: Path) -> FileEntry:
    """Size and SHA-256 of a file. Raises: OSError."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(size=os.fstat(file.fileno()).st_size, sha256=sha256)


def write_whole(path: Path, *pieces: bytes | bytearray | memoryview) -> None:
    """Write a file so that at any moment it is absent, as before, or whole; it is on the disk afterwards.

    Raises: StoreFull.
    """
    needed = sum(memoryview(piece).nbytes for piece in pieces)
    with whole_file(path, f"{path.name} ({megabytes(needed)})") as file:
        for piece in pieces:
            file.write(piece)


@contextmanager
def whole_file(path: Path, what: str) -> Iterator[IO[bytes]]:
    """A file to write to, which takes its name when the block ends well and is gone otherwise.

    Args:
        what: as `room_for` takes it.

    Raises: StoreFull.
    """
    partial = path.with_name(f".{path.name}.partial")
    with room_for(path.parent, what):
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync(path.parent)


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk. Raises: OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_tree(folder: Path) -> None:
    """Remove a folder; what another process removed in the meantime is as good. Raises: OSError."""

    def onerror(_function: Callable[..., Any], _path: str, problem: tuple[type, BaseException, object]) -> None:
        if not isinstance(problem[1], FileNotFoundError):
            raise problem[1]

    shutil.rmtree(folder, onerror=onerror)


def keep_only(folder: Path, names: Collection[str]) -> None:
    """Remove all in a folder but what goes by these names. Raises: OSError."""
    for path in folder.iterdir():
        if path.name not in names:
            remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def discard(folder: Path, trash: Path) -> None:
    """Remove a folder that others may be looking at: for them it is there, or gone, never half there."""
    trash.mkdir(parents=True, exist_ok=True)
    grave = Path(tempfile.mkdtemp(dir=trash))
    with suppress(FileNotFoundError):  # another process was faster
        folder.rename(grave / folder.name)
    remove_tree(grave)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder, as far as they are still there."""
    return sum(size for size, _ in _sizes_and_times(folder))


def last_change(folder: Path) -> float:
    """When anything below a folder was last written, in seconds since 1970; 0.0 if it is gone."""
    try:
        own = folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    return max([own, *(changed for _, changed in _sizes_and_times(folder))])


def free_bytes(folder: Path) -> int:
    """Bytes free to this user on the disk that a folder is, or will be, on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextmanager
def room_for(folder: Path, what: str) -> Iterator[None]:
    """Translate a full disk.

    Args:
        what: that was to be written, with its size, in an operator's words.

    Raises: StoreFull.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise StoreFull(_no_room(folder, what, str(error))) from error


def require_room(folder: Path, what: str, needed: int) -> None:
    """Refuse early what cannot fit. Raises: StoreFull."""
    if needed > free_bytes(folder):
        raise StoreFull(_no_room(folder, f"{what} ({megabytes(needed)})", "looked before writing"))


def megabytes(size: int) -> str:
    """As in `1,739.0 MB`."""
    return f"{size / 1e6:,.1f} MB"


def _no_room(folder: Path, what: str, reason: str) -> str:
    return (
        f"no room for {what} in {folder}: {megabytes(free_bytes(folder))} free ({reason}). Free some space, or run "
        "`trt-worker engines prune`; stored engines and finished phases are whole, and the next try goes on from them"
    )


def _sizes_and_times(folder: Path) -> Iterator[tuple[int, float]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            yield status.st_size, status.st_mtime
