"""Blocking work beside the event loop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trt_worker.concurrency import Backoff, in_daemon_thread


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_process_ends_though_its_thread_waits_for_a_drive_that_never_answers(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    script = f"""
import anyio
from pathlib import Path
from trt_worker.concurrency import in_daemon_thread

async def main():
    with anyio.move_on_after(0.05):
        await in_daemon_thread(Path({str(fifo)!r}).read_bytes)  # blocks: nobody writes

anyio.run(main)
"""
    ended = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)

    assert ended.returncode == 0


@pytest.mark.anyio
async def test_what_a_thread_of_that_kind_gives_or_raises_reaches_who_waits() -> None:
    assert await in_daemon_thread(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(lambda: 1 // 0)


def test_waits_double_up_to_the_longest_and_start_again_after_success() -> None:
    backoff = Backoff(1.0, 60.0)

    waits = [backoff.next_wait() for _ in range(10)]
    backoff.reset()

    assert all(0.5 * 2**n <= wait <= 2**n for n, wait in enumerate(waits[:6]))
    assert all(30 <= wait <= 60 for wait in waits[6:])
    assert backoff.next_wait() <= 1
