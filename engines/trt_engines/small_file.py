"""Small files that may be anything: read whole, and no further than they can sensibly be long."""

from __future__ import annotations

from pathlib import Path

from trt_engines.errors import ModelUnusable


def read_small(file: Path, most: int, *, which: str, remedy: str) -> bytes:
    """All bytes of a file.

    Args:
        most: bytes that it has at most.
        which: the end of "has more than so many bytes, which ...".
        remedy: what to do where it cannot be read.
    Raises: ModelUnusable: it cannot be read, is no file, or is longer.
    """
    try:
        if file.exists() and not file.is_file():  # a named pipe would be waited for
            raise ModelUnusable(f"{file}: is no file")
        with file.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise ModelUnusable(f"{file}: cannot be read ({error.strerror}); {remedy}") from error
    if len(data) > most:
        raise ModelUnusable(f"{file}: has more than {most} bytes, which {which}")
    return data
