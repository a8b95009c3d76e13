"""Heavy phases run in processes of their own: their memory is given back and measured, and a crash is contained.

`python -m trt_export.child FD` is such a process: it takes one piece of work over the connection, and tells over it how
far it is and what came of it.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

POLL_SECONDS = 0.2
LAST_WORDS = 2000
"""Bytes of what a process that died had written that are looked at for its reason."""

_PR_SET_PDEATHSIG = 1

Tell = Callable[[str, float], None]
"""Takes the step of a phase that is under way and the share of it that is done, 0 to 1."""


def unheard(step: str, share: float) -> None:
    """A Tell for phases whose progress nobody asked for."""


class PhaseFailed(Exception):
    """A phase ended with an error, or its process died; the message says which."""


class Stopped(Exception):
    """The build was told to stop."""

    def __init__(self) -> None:
        super().__init__("stopped; what is finished stays, and the next build goes on from there")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a phase gave."""

    result: Any
    peak_bytes: int  # most resident memory of its process


def run_phase(work: Callable[..., Any], arguments: tuple[Any, ...], tell: Tell, stop: threading.Event) -> Finished:
    """Call `work(*arguments, tell)` in a fresh process and wait for it.

    The process is not reached by what a terminal sends to the whole group, and it does not outlive this one.

    Args:
        work: a function of a module, with arguments and a result that can be pickled.
        stop: kills the process when set.

    Raises: PhaseFailed, Stopped.
    """
    ours, theirs = Pipe()
    with ours, tempfile.TemporaryFile() as complaints:
        command = [sys.executable, "-m", "trt_export.child", str(theirs.fileno())]
        with subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=complaints,
            stderr=complaints,
            start_new_session=True,
        ) as process:
            theirs.close()
            try:
                return _follow(ours, (work, arguments), tell, stop)
            except (EOFError, ConnectionError):
                raise PhaseFailed(_death(process.wait(), complaints)) from None
            finally:
                process.kill()


def _follow(connection: Connection, work: tuple[Any, ...], tell: Tell, stop: threading.Event) -> Finished:
    connection.send(work)
    while True:
        if stop.is_set():
            raise Stopped
        if not connection.poll(POLL_SECONDS):
            continue
        match connection.recv():
            case "progress", step, share:
                tell(step, share)
            case "failed", reason:
                raise PhaseFailed(reason)
            case "done", result, peak:
                return Finished(result=result, peak_bytes=peak)


def own_memory(kind: str) -> int:
    """Bytes of this program's memory, by the kernel's word in /proc/self/status: VmSize (virtual now), VmHWM (the most
    resident; unlike getrusage's, not that of the process it was started from)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{kind}:"))
    return int(line.split()[1]) * 1024


def _death(code: int, complaints: IO[bytes]) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed, most likely by the system for want of memory; free some and build again"
    complaints.seek(max(0, complaints.seek(0, 2) - LAST_WORDS))
    words = complaints.read().decode(errors="replace").strip().splitlines()
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return f"its process died ({how}){f': {words[-1]}' if words else ''}"


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve(connection: Connection) -> None:
    """One piece of work, in the process that was started for it."""
    die_with_parent()  # or it would go on writing where the next build works
    turn = threading.Lock()

    def tell(step: str, share: float) -> None:
        with turn:  # libraries tell from threads of their own
            connection.send(("progress", step, share))

    try:
        work, arguments = connection.recv()
        result = work(*arguments, tell)
    except Exception as exc:  # noqa: BLE001 - whatever it is, the parent reports it
        connection.send(("failed", str(exc) or type(exc).__name__))
    else:
        connection.send(("done", result, own_memory("VmHWM")))


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
