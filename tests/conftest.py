"""What holds for every test."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import settings

import trt_engines  # noqa: F401 - before any test imports ONNX Runtime, whose telemetry it switches off

# A loaded machine is slow, not wrong: no example of a property is timed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread each: workers share the cores. Numerical libraries read it when they are first imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def the_picture() -> Callable[[str], bytes]:
    """The file of a name in `data/pictures`: pictures as customers send them."""

    def read(name: str) -> bytes:
        return (Path(__file__).parent / "data" / "pictures" / name).read_bytes()

    return read


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts an `nvidia-smi` first on the path that prints some text and ends with some status."""

    def install(text: str, status: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return install


@dataclass
class LittleProxy:
    """An HTTP proxy on loopback: tunnels for CONNECT, and requests with whole addresses passed on."""

    port: int = 0
    hosts: dict[str, int] = field(default_factory=dict)  # the port on loopback that stands for a host
    status: int = 200  # of its own answers to CONNECT
    asked: list[str] = field(default_factory=list)  # first lines of requests
    passwords: list[str] = field(default_factory=list)  # what came as Proxy-Authorization
    under_way: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def has_ended(self) -> None:
        """Return once nothing goes through it and both its ends know: an event loop that closes before complains."""

        def wait() -> None:
            with self.changed:
                assert self.changed.wait_for(lambda: not self.under_way, timeout=20)

        await anyio.to_thread.run_sync(wait)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()


class _Passing(StreamRequestHandler):
    def setup(self) -> None:
        super().setup()
        self._count(1)

    def finish(self) -> None:
        super().finish()
        self.connection.close()
        self._count(-1)

    def _count(self, change: int) -> None:
        proxy: LittleProxy = self.server.proxy  # type: ignore[attr-defined]
        with proxy.changed:
            proxy.under_way += change
            proxy.changed.notify_all()

    def handle(self) -> None:
        proxy: LittleProxy = self.server.proxy  # type: ignore[attr-defined]
        head = [line.decode() for line in iter(self.rfile.readline, b"\r\n")]
        method, target, version = head[0].split()
        proxy.asked.append(f"{method} {target}")
        proxy.passwords += [line.split(": ")[1].strip() for line in head if line.startswith("Proxy-Authorization")]
        address = urlsplit(target if "://" in target else f"//{target}")
        if proxy.status != 200:
            self.wfile.write(f"HTTP/1.1 {proxy.status} Refused\r\nContent-Length: 0\r\n\r\n".encode())
            return
        with socket.create_connection(("127.0.0.1", proxy.hosts[address.hostname or ""])) as further:
            if method == "CONNECT":
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                head[0] = f"{method} {address.path or '/'} {version}\r\n"
                further.sendall(("".join(head) + "\r\n").encode())
            self.pass_on(further)

    def pass_on(self, further: socket.socket) -> None:
        ends = {self.connection: further, further: self.connection}
        try:
            while True:
                for readable in select.select(list(ends), [], [])[0]:
                    if not (data := readable.recv(65536)):
                        return
                    ends[readable].sendall(data)
        except ConnectionError:
            return


@pytest.fixture
def little_proxy() -> Iterator[LittleProxy]:
    """A proxy in threads of its own."""
    proxy = LittleProxy()
    with ThreadingTCPServer(("127.0.0.1", 0), _Passing) as server:
        server.proxy = proxy  # type: ignore[attr-defined]
        server.daemon_threads = True
        proxy.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield proxy
        server.shutdown()
        thread.join()
