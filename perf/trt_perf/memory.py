"""The memory of a process and everything it has started, sampled while it works."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

SAMPLE_SECONDS = 0.1


@dataclass(slots=True)
class Peak:
    """The highest sums over all processes, in bytes."""

    own: int = 0  # anonymous and shared memory
    mapped: int = 0  # pages of files, which the system can drop


@contextmanager
def watched(pid: int) -> Iterator[Peak]:
    """Sample a process and its descendants until the end of the block. Source: proc_pid_status(5), Rss*."""
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            own = mapped = 0
            for process in _tree(pid):
                for kind, size in _memory(process).items():
                    if kind == "RssFile":
                        mapped += size
                    else:
                        own += size
            peak.own, peak.mapped = max(peak.own, own), max(peak.mapped, mapped)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def _tree(pid: int) -> list[int]:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    return []


def _memory(pid: int) -> dict[str, int]:
    """Resident memory by kind, in bytes; nothing of a process that is gone."""
    found = {}
    with suppress(OSError), open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith(("RssAnon", "RssFile", "RssShmem")):
                kind, size, _ = line.split()
                found[kind.rstrip(":")] = int(size) * 1024
    return found
