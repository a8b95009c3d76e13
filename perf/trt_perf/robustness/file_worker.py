"""A whole worker as a process of its own, configured by a file that can be edited while it runs."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import Process

from trt_worker.local_grid.server import LocalGrid

END_SECONDS = 30.0


@dataclass(slots=True)
class FileWorker:
    """The worker, and the file with its settings."""

    process: Process
    file: Path
    settings: dict[str, object]

    def edit(self, changes: Mapping[str, object]) -> None:
        """Write the file anew, as an operator does, and have it read at once."""
        self.settings |= changes
        self.file.write_text(_text(self.settings))
        self.process.send_signal(signal.SIGHUP)


@asynccontextmanager
async def open_file_worker(grid: LocalGrid, folder: Path, settings: Mapping[str, object]) -> AsyncIterator[FileWorker]:
    """A worker on a local grid whose device costs nothing; ended as by an operator.

    Args:
        settings: further keys of its configuration.
    """
    written: dict[str, object] = {
        "api_key": grid.key,
        "dreamer_name": "rig",
        "network": "grid",
        "grid_url": grid.worker_url,
        "grid_http_url": grid.url,
        "backends": "dummy",
        "models_to_load": "[shapes-tiny]",
        "log_dir": folder / "logs",
        "cache_home": folder / "models",
        "limited_console_messages": "true",
        **settings,
    }
    file = folder / "bridgeData.yaml"
    file.write_text(_text(written))
    process = await anyio.open_process(
        [sys.executable, "-m", "trt_worker", "run", "-c", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    async with process:
        try:
            yield FileWorker(process, file, written)
            process.send_signal(signal.SIGTERM)
            with anyio.move_on_after(END_SECONDS):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()


def _text(settings: Mapping[str, object]) -> str:
    return "".join(f"{key}: {value}\n" for key, value in settings.items())
