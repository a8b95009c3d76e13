"""Log files under the names operators know, and a console that shows what matters; no secret reaches either.

    bridge.log, bridge_N.log    all lines, of the supervisor and of device process N
    trace.log, trace_N.log      warnings and errors alone

A file is put aside at midnight or when it is large, and removed after three days. The API key is known to the
supervisor alone: it is in no argument and no environment variable of a child process, so no process listing shows it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from loguru import logger

from trt_worker.instance import unwritable
from trt_worker.telemetry.redact import Redactor

if TYPE_CHECKING:
    from loguru import Message, Record

LARGEST_FILE = 50 * 1024 * 1024  # bytes
LONGEST_TEXT = 8_000
"""Characters of one message in a log; what a network said was cut long before."""
LONGEST_TRACEBACK = 32_000
CONTINUED = "    "
"""Begins every further line of a message, so that no text can pass itself off as a line of the log."""
UNENCODABLE = "backslashreplace"
"""What a file does with text that is no valid Unicode, such as half a surrogate pair in a prompt: as stderr does, it
writes an escape, so that the line is not lost."""
RETENTION = "3 days"
LINE = "{time:YYYY-MM-DD HH:mm:ss.SSS} | {level: <8} | {name}:{function}:{line} - {message}{extra[traceback]}\n"
CONSOLE_LINE = "<dim>{time:HH:mm:ss}</> | <level>{level: <8}</> | <level>{message}</>{extra[traceback]}\n"
LEVELS = ("INFO", "DEBUG", "TRACE")
"""Lowest level that is written, by how often `-v` was given."""
LIMITED = "SUCCESS"
"""Lowest level of a console that shows results and status only: those lines are logged with `logger.success`."""

_SHARED_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})
"""Levels that Python's own logging and ours both have."""


def configure_logs(
    directory: Path | None,
    *,
    process: int | None,
    verbosity: int,
    secrets: Iterable[str],
    console: bool,
    limited: bool = False,
) -> None:
    """Set up every log of this process anew, those of libraries and of uncaught exceptions included.

    Args:
        directory: of the files; made if it is not there. None: no files.
        process: number of the device process; None: the supervisor.
        verbosity: 0 is INFO, 1 DEBUG, 2 and more TRACE.
        secrets: texts that must not appear, besides what has the shape of a secret (`redact`).
        console: whether lines go to stderr too.
        limited: the console shows results, status, warnings and errors only.
    Raises: ConfigError: the directory cannot be written.
    """
    redact = Redactor(secrets)
    level = LEVELS[min(max(verbosity, 0), len(LEVELS) - 1)]
    logger.remove()
    logger.configure(patcher=lambda record: _clean(record, redact))
    if console:
        _to_console(sys.stderr, LIMITED if limited and verbosity <= 0 else level)
    if directory is not None:
        suffix = "" if process is None else f"_{process}"
        try:
            _to_file(directory / f"bridge{suffix}.log", level)
            _to_file(directory / f"trace{suffix}.log", "WARNING")
        except OSError as error:
            raise unwritable(directory, error) from error
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.WARNING, force=True)
    uncaught = _Uncaught(redact, console=console)
    sys.excepthook = uncaught.in_process
    threading.excepthook = uncaught.in_thread


def colours(stream: TextIO, no_colour: str | None) -> bool:
    """Whether to colour what goes to `stream`: a terminal, unless NO_COLOR holds anything (https://no-color.org)."""
    return stream.isatty() and not no_colour


def _clean(record: Record, redact: Redactor) -> None:
    """Rewrite a record before any sink sees it.

    The traceback becomes text here, since a sink that formats the exception itself would print what it says. Python's
    own formatter shows source lines and no values of variables.
    """
    record["message"] = _told(record["message"], redact, LONGEST_TEXT)
    record["extra"] = {key: _told(str(value), redact, LONGEST_TEXT) for key, value in record["extra"].items()}
    caught = record["exception"]
    text = "" if caught is None else "\n" + "".join(traceback.format_exception(caught.value)).rstrip("\n")
    record["extra"]["traceback"] = _told(text, redact, LONGEST_TRACEBACK)
    record["exception"] = None


def _told(text: str, redact: Redactor, most: int) -> str:
    """The last line of defence: without secrets and control characters, not longer than `most`, and one record."""
    start = text[: most + redact.longest]
    whole = redact(start)
    if len(start) < len(text):  # what the cut has left of a secret is not known as one: it goes as well
        whole = whole[: max(0, len(whole) - redact.longest)]
    if len(start) < len(text) or len(whole) > most:
        whole = f"{whole[:most]}... ({len(text)} characters)"
    return whole.replace("\n", f"\n{CONTINUED}")


def _to_console(stream: TextIO, level: str) -> None:
    logger.add(
        stream,
        level=level,
        format=lambda _: CONSOLE_LINE,
        colorize=colours(stream, os.environ.get("NO_COLOR")),
        backtrace=False,
        diagnose=False,
    )


def _to_file(path: Path, level: str) -> None:
    logger.add(
        path,
        level=level,
        format=lambda _: LINE,
        colorize=False,
        rotation=_Rotation(LARGEST_FILE),
        retention=RETENTION,
        encoding="utf-8",
        errors=UNENCODABLE,
        backtrace=False,
        diagnose=False,
    )


class _Rotation:
    """Tells when a log file is to be put aside: on the first line of a new day, or when it is full."""

    def __init__(self, largest: int) -> None:
        self._largest = largest  # bytes
        self._day: int | None = None  # proleptic ordinal of the lines in the file; None: not looked yet

    def __call__(self, message: Message, file: TextIO) -> bool:
        today = message.record["time"].toordinal()
        file.seek(0, os.SEEK_END)
        size = file.tell()
        if self._day is None:
            written = datetime.fromtimestamp(Path(file.name).stat().st_mtime).astimezone() if size else None
            self._day = today if written is None else written.toordinal()
        due = today != self._day or size + len(message.encode(errors=UNENCODABLE)) > self._largest
        self._day = today
        return due and size > 0


class _ToLoguru(logging.Handler):
    """What libraries log goes the same way as our own lines, and so through the same redaction."""

    def emit(self, record: logging.LogRecord) -> None:
        def as_library(ours: Record) -> None:
            ours["name"], ours["function"], ours["line"] = record.name, record.funcName, record.lineno

        level: str | int = record.levelname if record.levelname in _SHARED_LEVELS else record.levelno
        logger.patch(as_library).opt(exception=record.exc_info).log(level, "{}", record.getMessage())


class _Uncaught:
    """Logs what ends the process or a thread, in place of Python's own report, which knows no secrets.

    Without a console it is said on stderr too, as Python would, so that a crash is never silent.
    """

    def __init__(self, redact: Redactor, *, console: bool) -> None:
        self._redact = redact
        self._console = console

    def in_process(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            self._tell(error, "The process ends")

    def in_thread(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            self._tell(args.exc_value, f"Thread {args.thread.name if args.thread is not None else '?'} ends")

    def _tell(self, error: BaseException, what: str) -> None:
        logger.opt(exception=error).critical("{}, because of an error nobody expected:", what)
        if not self._console:
            sys.stderr.write(_told("".join(traceback.format_exception(error)), self._redact, LONGEST_TRACEBACK))
