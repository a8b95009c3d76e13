"""Changing the configuration of a running worker: which keys take effect, and when to look.

A change is noticed on SIGHUP at once, and otherwise by the file's modification time, which is looked at every five
seconds: an editor that writes a new file in place of the old one, a network drive and a mounted config map all show
themselves that way. Nothing on the path of a job waits for this.
"""

from __future__ import annotations

import signal
import stat
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
from loguru import logger

from trt_worker.concurrency import in_daemon_thread
from trt_worker.config.keys import RELOADED
from trt_worker.config.load import Loaded, Note, load_config
from trt_worker.config.schema import Config
from trt_worker.errors import ConfigError

LOOK_SECONDS = 5.0
_PATIENCE_SECONDS = 30.0

Stamp = tuple[int, int, int] | None
"""Modification time in ns, size and inode of a file; None: no regular file is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """What a change of the file comes to."""

    config: Config  # what runs from now on
    applied: tuple[str, ...]  # keys that have taken effect in it
    needs_restart: tuple[str, ...]  # keys that differ in the file and keep their old value here


def reloadable(old: Config, new: Config) -> Reload:
    """Take over from `new` what can change in a running worker."""
    changed = [key for key in Config.model_fields if getattr(old, key) != getattr(new, key)]
    applied = tuple(key for key in changed if key in RELOADED)
    return Reload(
        config=old.model_copy(update={key: getattr(new, key) for key in applied}),
        applied=applied,
        needs_restart=tuple(key for key in changed if key not in RELOADED),
    )


def watch(path: Path, *, seconds: float = LOOK_SECONDS) -> AsyncGenerator[None, None]:
    """One item whenever the file has changed since this call, or SIGHUP has arrived since the first item was awaited.

    Something that is no regular file, such as a pipe, counts as no file: reading it could take for ever. Close the
    generator (`contextlib.aclosing`) to give the signal back.
    """
    return _watch(path, _stamp(path), seconds)


def follow(
    path: Path,
    running: Config,
    *,
    environ: Mapping[str, str],
    name: str | None = None,
    home: Path = Path(),
    seconds: float = LOOK_SECONDS,
) -> AsyncGenerator[Reload, None]:
    """Every change since this call that the worker can use; one that it cannot is logged once and changes nothing.

    Args:
        running: what runs now; later items build on each other.
        environ, name, home: as for `load_config`: they go on winning over the file.
    """
    read = partial(load_config, path, environ=environ, name=name, home=home)
    return _follow(watch(path, seconds=seconds), read, running)


async def _follow(
    changes: AsyncGenerator[None, None], read: Callable[[], Loaded], running: Config
) -> AsyncGenerator[Reload, None]:
    told: tuple[Note, ...] = ()
    async with aclosing(changes):
        async for _ in changes:
            try:
                loaded = await in_daemon_thread(read)
            except ConfigError as error:
                logger.error("The configuration is not changed, since the file cannot be used. {}", error)
                continue
            for note in loaded.notes:
                if note not in told:
                    logger.warning("{}", note)
            told = loaded.notes
            reload = reloadable(running, loaded.config)
            running = reload.config
            if reload.applied:
                logger.info("Configuration changed: {}", ", ".join(reload.applied))
            if reload.needs_restart:
                logger.warning("These changes wait for a restart: {}", ", ".join(reload.needs_restart))
            if reload.applied or reload.needs_restart:
                yield reload


async def _watch(path: Path, seen: Stamp, seconds: float) -> AsyncGenerator[None, None]:
    with anyio.open_signal_receiver(signal.SIGHUP) as hangups:
        while True:
            with anyio.move_on_after(seconds) as waiting:
                await anext(hangups)
            now = await _look(path)
            if now is None and not waiting.cancelled_caught:
                logger.error("{} is no file, so there is no configuration to read; the old one holds.", path)
            if now is None or (waiting.cancelled_caught and now == seen):
                continue
            seen = now
            yield


async def _look(path: Path) -> Stamp:
    """The stamp, however long its disk takes to answer; that it takes long is said once."""
    async with anyio.create_task_group() as both:
        both.start_soon(_say_that_it_takes_long, path)
        stamp = await in_daemon_thread(partial(_stamp, path))
        both.cancel_scope.cancel()
    return stamp


async def _say_that_it_takes_long(path: Path) -> None:
    await anyio.sleep(_PATIENCE_SECONDS)
    logger.warning(
        "{} does not answer, as on a network drive that is gone: its changes are not seen until it does.", path
    )


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
