"""Locks between processes. The kernel lets go of a killed holder's lock, so none is ever stale."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trt_engines.store.errors import WaitingStopped

POLL_SECONDS = 0.2


@contextmanager
def hold(
    path: Path, on_wait: Callable[[int | None], None] | None = None, stop: threading.Event | None = None
) -> Iterator[None]:
    """Hold the lock of this file, waiting as long as it takes; signals are answered meanwhile.

    Lock files are never removed: between opening and locking, another process would lock a file of its own.

    Args:
        on_wait: called once, with the holder's process id if known, before waiting.
        stop: ends the waiting when set.

    Raises: WaitingStopped.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                on_wait(_holder(handle))
            _wait(handle, stop)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)  # which also unlocks


@contextmanager
def hold_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock of this file if nobody does; gives whether it is held. Writes nothing: it works on a full disk."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


@contextmanager
def share(path: Path, when_first: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of this file together with any number of others.

    Args:
        when_first: called before that if nobody holds it, which nobody does until it returns.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            when_first()
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock of this file; changes nothing and needs no right to write."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _wait(handle: int, stop: threading.Event | None) -> None:
    if stop is None:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return
    while True:  # the kernel cannot wait for a lock and for an event of ours
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if stop.wait(POLL_SECONDS):
                raise WaitingStopped("stopped while another process was building the same") from None
        else:
            return


def _holder(handle: int) -> int | None:
    text = os.pread(handle, 20, 0)
    return int(text) if text.isdigit() else None
