"""Heavy phases run in processes of their own: their memory is given back and measured, and a crash is contained."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.2

Tell = Callable[[float], None]
"""Takes the share of a phase that is done, 0 to 1."""


class PhaseFailed(Exception):
    """A phase ended with an error, or its process died; the message says which."""


class Stopped(Exception):
    """The build was told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a phase gave."""

    result: Any
    peak_bytes: int  # most resident memory of its process


def run_phase(work: Callable[..., Any], arguments: tuple[Any, ...], tell: Tell, stop: threading.Event) -> Finished:
    """Call `work(*arguments, tell)` in a fresh process and wait for it.

    Args:
        work: a function of a module, with arguments and a result that can be pickled.
        stop: kills the process when set.

    Raises: PhaseFailed, Stopped.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(work, arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            if stop.is_set():
                raise Stopped("the build was stopped; what is finished stays, and the next build goes on from there")
            if not ours.poll(POLL_SECONDS):
                continue
            try:
                kind, value = ours.recv()
            except EOFError:
                process.join()
                raise PhaseFailed(_death(process.exitcode)) from None
            if kind == "progress":
                tell(value)
            elif kind == "failed":
                raise PhaseFailed(value)
            else:
                return Finished(result=value[0], peak_bytes=value[1])
    finally:
        process.kill()
        process.join()
        ours.close()


def _serve(work: Callable[..., Any], arguments: tuple[Any, ...], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to everybody: the parent decides
    try:
        result = work(*arguments, lambda share: connection.send(("progress", share)))
    except Exception as exc:  # noqa: BLE001 - whatever it is, the parent reports it
        connection.send(("failed", str(exc) or type(exc).__name__))
    else:
        connection.send(("done", (result, own_memory("VmHWM"))))


def own_memory(kind: str) -> int:
    """Bytes of this program's memory, by the kernel's word in /proc/self/status: VmSize (virtual now), VmHWM (the most
    resident; unlike getrusage's, not that of the process it was started from)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{kind}:"))
    return int(line.split()[1]) * 1024


def _death(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed, most likely by the system for want of memory; free some and build again"
    return f"its process died ({signal.Signals(-code).name if code and code < 0 else f'exit status {code}'})"
