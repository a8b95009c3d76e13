"""The device process: one thread owns the engines, another reads what the supervisor sends.

python -m trt_worker.device.process FD PID      (started by the supervisor PID; FD is an end of a socket pair)

It never outlives the supervisor: it ends when it cannot hear it any more, and the kernel ends it when the supervisor is
killed, amid whatever it does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from trt_engines.backends.ladder import make_backends
from trt_engines.devices.errors import DeviceFault
from trt_engines.residency import Memory
from trt_worker import frames
from trt_worker.device.loop import DeviceLoop
from trt_worker.errors import DeviceLost
from trt_worker.telemetry.logs import configure_logs

Inbox = SimpleQueue["tuple[frames.ToDevice, bytes] | None"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class SupervisorGone(DeviceLost):
    """Nobody is there any more who takes what this process makes."""


def main() -> None:
    """Serve one supervisor until its end of the socket closes."""
    if not _end_with(int(sys.argv[2])):
        return
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # a terminal signals the whole group; the supervisor drains us
    channel = socket.socket(fileno=int(sys.argv[1]))
    try:
        header, _ = receive(channel)
    except EOFError:
        return  # the supervisor found no use for this process: its configuration is wrong
    if not isinstance(header, frames.Configure):
        raise DeviceLost(f"the supervisor began with {type(header).__name__} instead of Configure")
    os.environ.update(header.environment)  # CUDA and HIP read theirs when they are first used
    configure_logs(
        Path(header.log_directory) if header.log_directory else None,
        process=header.index,
        verbosity=header.verbosity,
        secrets=(),
        console=False,
    )
    for name, value in header.environment.items():
        logger.info("{} is {!r} here", name, value)
    inbox: Inbox = SimpleQueue()
    Thread(target=_read, args=(channel, inbox), daemon=True, name="reader").start()
    try:
        with logger.catch(reraise=True, exclude=(DeviceFault, SupervisorGone), message="The device process ends"):
            serve(header, channel, inbox)
    except SupervisorGone as gone:
        logger.warning("{}; the device process ends.", gone)
    except DeviceFault as fault:
        logger.critical("{}. Nothing can be trusted here any more: the process ends, and another takes over.", fault)
        sys.exit(frames.DEVICE_FAULT)


def serve(configure: frames.Configure, channel: socket.socket, inbox: Inbox) -> None:
    """The life of the process: wait for jobs when idle, step while there are any."""

    def emit(header: frames.FromDevice, body: NDArray[np.uint8] | None) -> None:
        packed = frames.pack(header, body.nbytes if body is not None else 0)
        try:
            channel.sendall(packed)
            if body is not None:
                channel.sendall(np.ascontiguousarray(body).data)
        except OSError as error:
            raise SupervisorGone(f"the supervisor takes no more frames ({type(error).__name__})") from error

    ladder = make_backends(configure.backends, threads=configure.threads, sm=configure.sm)
    backends = {backend.name: backend for backend in ladder}
    models = {model.name: model for model in configure.models}
    budgets = {Memory.CARD: configure.memory, Memory.MACHINE: configure.machine_memory}
    loop = DeviceLoop(models, backends, max_rows=configure.max_rows, budgets=budgets, emit=emit)
    emit(frames.Ready(pid=os.getpid()), None)
    while True:
        while not (loop.busy and inbox.empty()):
            arrived = inbox.get()
            if arrived is None:
                return
            header, body = arrived
            if isinstance(header, frames.Run):
                loop.take(header, body)
            elif isinstance(header, frames.Withdraw):
                loop.withdraw(header.id)
            elif isinstance(header, frames.Models):
                loop.know(header.models)
        loop.step()


def receive(channel: socket.socket) -> tuple[frames.ToDevice, bytes]:
    """The next frame. Raises: EOFError: the supervisor is gone. DeviceLost: it is no frame."""
    header_bytes, body_bytes = frames.sizes(_exactly(channel, frames.PREFIX.size))
    header = frames.unpack_to_device(_exactly(channel, header_bytes))
    return header, _exactly(channel, body_bytes)


def _read(channel: socket.socket, inbox: Inbox) -> None:
    """Pass frames on until there are no more; whatever ends this ends the process, which would be deaf without it."""
    try:
        while True:
            inbox.put(receive(channel))
    except (EOFError, ConnectionError):
        logger.debug("The supervisor has closed its end.")
    except Exception as error:  # noqa: BLE001  # a thread's exceptions reach nobody: said here, and acted on below
        logger.opt(exception=error).critical("Frames cannot be read any more ({}): the process ends.", error)
    finally:
        inbox.put(None)


def _end_with(supervisor: int) -> bool:
    """Have the kernel kill this process when the thread that started it ends, as that of a killed supervisor does.

    Returns: False: it has ended already.
    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    return os.getppid() == supervisor


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        received = channel.recv_into(view)
        if not received:
            raise EOFError
        view = view[received:]
    return bytes(data)


if __name__ == "__main__":
    main()
