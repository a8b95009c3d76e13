"""Runs the demo in a network namespace of its own and writes into FOLDER/told.json what it looked for outside.

unshare --map-root-user --net --mount python tests/isolated.py FOLDER
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
NO_SUCH_NAME = 0x8183  # flags of a DNS answer: recursive, and there is no such name (RFC 1035, 4.1.1)
NO_ROUTE = ("OutNoRoutes", "Ip6OutNoRoutes")
"""Counters of this namespace that grow with every attempt to reach an address that is not this machine's."""


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))


def name_server(folder: Path, asked: list[str]) -> None:
    """Make every program here ask us for names; there is none, and each question is kept."""
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", str(folder / "resolv.conf"), "/etc/resolv.conf"], check=True)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))

    def answer() -> None:
        while True:
            question, sender = server.recvfrom(4096)
            asked.append(question[12:].partition(b"\0")[0].decode(errors="replace"))
            server.sendto(question[:2] + struct.pack(">H", NO_SUCH_NAME) + question[4:], sender)

    threading.Thread(target=answer, daemon=True).start()


def without_route() -> dict[str, int]:
    names, values = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:")]
    counted = dict(zip(names, values, strict=True))
    counted |= dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    return {name: int(counted[name]) for name in NO_ROUTE}


def look_outside() -> None:
    """What the watch has to see, or what it has not seen says nothing."""
    for host in ("control.example", "192.0.2.1", "2001:db8::1"):
        try:
            socket.create_connection((host, 443), timeout=5).close()
        except OSError:
            continue


def main(folder: Path) -> None:
    asked: list[str] = []
    home = folder / "home"
    home.mkdir()
    os.environ["HOME"] = str(home)
    loopback_up()
    name_server(folder, asked)

    import anyio

    from trt_worker.demo import run_demo

    outcome = anyio.run(lambda: run_demo(1, log_directory=folder / "logs", verbosity=0))
    seen = {"names": list(asked), **without_route(), "files": [str(path.relative_to(home)) for path in home.rglob("*")]}
    look_outside()
    told = {"acknowledged": outcome.acked, "seen": seen, "control": {"names": asked, **without_route()}}
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
