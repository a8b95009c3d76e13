"""Several workers in one folder: each has a name and a log folder of its own, and one name runs once."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from trt_worker.errors import ConfigError

_LONGEST = 60  # characters of a folder named after a worker


def folder_name(worker: str) -> str:
    """A worker's name as that of a file or folder: two workers never share one."""
    plain = re.sub(r"[^\w .#()-]+", "_", worker).lstrip(".")[:_LONGEST].strip()
    return plain if plain == worker else f"{plain}-{sha256(worker.encode()).hexdigest()[:8]}"


@contextmanager
def only_worker(name: str, log_dir: Path, folder: Path) -> Iterator[None]:
    """Be the only worker under a name, and the only one that writes logs into a folder, until the context is left.

    The locks are the kernel's (flock), so that they end with the process, however it ends.

    Args:
        name: of the worker, as the network knows it.
        log_dir: where all workers of this configuration have their locks.
        folder: where this one writes its logs: `log_dir`, or a folder in it.
    Raises: ConfigError: another worker has the name or the folder, or the folder cannot be written.
    """
    with ExitStack() as held:
        for place in dict.fromkeys((log_dir, folder)):
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(place, error) from error
        owner = _lock(held, log_dir / f".{folder_name(name)}.lock", name)
        if owner is not None:
            raise ConfigError(
                f"{owner} is at work here already under this name, which one worker at a time can have. "
                "Stop it first, or give this worker another name with -n."
            )
        owner = _lock(held, folder / ".logs.lock", name)
        if owner is not None:
            raise ConfigError(
                f"{owner} writes its logs into {folder} already. "
                "Give this worker a folder of its own: set log_dir, or its name with -n."
            )
        yield


def _lock(held: ExitStack, path: Path, name: str) -> str | None:
    """Lock a file and write our name into it. Returns: who has it instead; None: we have."""
    try:
        file: BinaryIO = held.enter_context(path.open("a+b"))
    except OSError as error:
        raise unwritable(path.parent, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        return file.read(200).decode(errors="replace") or "Another worker"
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be locked ({error.strerror}). Set log_dir to a folder on a disk of this machine."
        ) from error
    file.truncate(0)
    file.write(f"{name!r} (process {os.getpid()})".encode())
    file.flush()
    return None


def unwritable(folder: Path, error: OSError) -> ConfigError:
    """What to tell of a log folder that cannot be used."""
    return ConfigError(f"log_dir {folder} cannot be written ({error.strerror}). Set log_dir to a folder that can be.")
