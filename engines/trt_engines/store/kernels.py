"""Kernels that a library compiled for an engine on the card, kept beside the engine for later processes.

They are not a part of the engine: they are lost when it is rebuilt, and are not exported.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from loguru import logger

from trt_engines.store.errors import StoreFull
from trt_engines.store.files import write_whole
from trt_engines.store.locks import hold_if_free

_MAGIC = b"trt-worker kernels 1\n"
_HEADER = len(_MAGIC) + hashlib.sha256().digest_size


class KernelFile:
    """The kernels of one engine for one environment. Losing them costs time and nothing else, so nothing here raises
    for what the disk does.

    Args:
        folder: of the engine's kernels; it need not be there.
        lock: of the engine.
        environment: what they were compiled by and for; those of another are not read.
    """

    def __init__(self, folder: Path, lock: Path, environment: str) -> None:
        self._engine = folder.parent
        self._path = folder / hashlib.sha256(environment.encode()).hexdigest()[:16]
        self._lock = lock
        self._environment = environment

    def read(self) -> bytes:
        """The kernels; empty: there are none, or they are damaged or foreign, and are written anew."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            logger.warning("Compiled kernels cannot be read and are compiled again: {}", error)
            return b""
        if data[:_HEADER] != self._header(data[_HEADER:]):
            logger.warning("{} is damaged, or of another card: its kernels are compiled again.", self._path)
            return b""
        return data[_HEADER:]

    def write(self, kernels: bytes) -> None:
        """Keep them in place of those that were there, unless the engine is just being replaced or removed."""
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            with hold_if_free(self._lock) as held:
                if not held or not self._engine.exists():
                    logger.info("{} is in use or gone: its compiled kernels are not kept now.", self._engine)
                    return
                self._path.parent.mkdir(exist_ok=True)
                write_whole(self._path, self._header(kernels), kernels)
        except (OSError, StoreFull) as error:
            logger.warning("Compiled kernels are not kept, and the next start compiles them again: {}", error)

    def _header(self, kernels: bytes) -> bytes:
        return _MAGIC + hashlib.sha256(self._environment.encode() + b"\n" + kernels).digest()
