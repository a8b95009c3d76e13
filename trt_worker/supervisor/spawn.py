"""Starts device processes. Nothing heavy is imported here, so that a device loads its libraries while the supervisor
still loads its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from trt_worker.config.keys import without_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProcess:
    """A process that waits for its first frame on the other end of `channel`; leaving the context ends it."""

    process: subprocess.Popen[bytes]
    channel: socket.socket

    def __enter__(self) -> DeviceProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()


def spawn(environ: Mapping[str, str] = os.environ) -> DeviceProcess:
    """Start a device process: frames tell it what it needs to know, and it is given no setting of the operator's.

    To be called by a thread that lives as long as the worker does: the kernel ends the process with that thread.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        # -P: nothing is imported from the directory that the worker was started in
        command = [sys.executable, "-P", "-m", "trt_worker.device.process", str(theirs.fileno()), str(os.getpid())]
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=without_settings(environ)
        )
    return DeviceProcess(process=process, channel=ours)
