"""Whether files of weights are whole: cut ones are seen by their own header, changed ones by their digest.

Reading every byte of a large model takes longer than an operator waits at a start. So what a file was when its bytes
were last compared is noted, and they are compared again when its size, its time or its inode is another.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

import msgspec

from trt_engines.errors import ModelUnusable

if TYPE_CHECKING:
    from trt_engines.model import Model

MOST_HEADER = 100 * 2**20
"""Bytes of a safetensors header, as its own library has it."""

_LENGTH = 8


class _Place(msgspec.Struct, frozen=True):
    data_offsets: tuple[int, int]


class _Noted(msgspec.Struct, frozen=True):
    """What a file was when its bytes had this digest."""

    size: int
    mtime_ns: int
    inode: int
    sha256: str


class DigestNotes:
    """Digests of files as they were last read, kept in a small file.

    Nothing depends on it but time: one that is missing, damaged or somebody else's is taken for empty.

    Args: file: where they are kept; it and its folder need not exist. None: they are not.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._noted: dict[str, _Noted] = {}
        if file is None:
            return
        with suppress(OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
            self._noted = msgspec.json.decode(file.read_bytes(), type=dict[str, _Noted])

    def digest(self, path: Path, *, anew: bool = False) -> str:
        """The SHA-256 of a file's bytes: the noted one while the file looks the same.

        Args: anew: read it whatever was noted.
        Raises: OSError.
        """
        noted, seen = self._noted.get(str(path)), path.stat()
        looks = (seen.st_size, seen.st_mtime_ns, seen.st_ino)
        if noted is not None and not anew and looks == (noted.size, noted.mtime_ns, noted.inode):
            return noted.sha256
        digest = sha256_of(path)
        self._noted[str(path)] = _Noted(size=looks[0], mtime_ns=looks[1], inode=looks[2], sha256=digest)
        return digest

    def keep(self) -> None:
        """Write them down; whoever reads meanwhile finds the old ones or the new ones. Raises: OSError."""
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=self._file.parent, prefix=f".{self._file.name}.", delete=False) as new:
            try:
                new.write(msgspec.json.format(msgspec.json.encode(self._noted)))
                new.flush()
                os.replace(new.name, self._file)
            except OSError:
                os.unlink(new.name)
                raise


def sha256_of(path: Path) -> str:
    """Raises: OSError."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(model: Model, notes: DigestNotes, *, anew: bool = False) -> str:
    """What is wrong with a model's files on disk, in an operator's words; empty: nothing that can be seen.

    Args: anew: read every file that has a digest, whatever was noted.
    """
    try:
        for path in model.weight_files:
            check_whole(path)
        for path, expected in model.digests.items():
            if (found := notes.digest(path, anew=anew)) != expected:
                return (
                    f"{path}: its bytes are not those of the model (SHA-256 {found[:12]}..., it should be "
                    f"{expected[:12]}...); fetch the model again"
                )
    except OSError as error:
        return f"{error.filename or model.folder}: cannot be read ({error.strerror})"
    except ModelUnusable as error:
        return str(error)
    return ""


def check_whole(path: Path) -> None:
    """Compare a safetensors file's size with what its header says; other files are not looked at.

    Raises: ModelUnusable: it is cut, too long, or no safetensors file. OSError.
    Source: the format's description in the README of huggingface/safetensors: a length of 8 bytes, a header of that
    many, and then the tensors' bytes without a hole.
    """
    if path.suffix != ".safetensors":
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        if size < _LENGTH or length > min(size - _LENGTH, MOST_HEADER):
            raise ModelUnusable(f"{path}: is cut or no safetensors file ({size} bytes); fetch the model again")
        header = file.read(length)
    try:
        places = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        ends = [msgspec.json.decode(raw, type=_Place).data_offsets[1] for name, raw in places.items()
                if name != "__metadata__"]  # fmt: skip
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ModelUnusable(f"{path}: its header is damaged ({error}); fetch the model again") from error
    if (whole := _LENGTH + length + max(ends, default=0)) != size:
        raise ModelUnusable(
            f"{path}: has {size} bytes where its header promises {whole}: it is cut or still being copied; fetch the "
            "model again"
        )
