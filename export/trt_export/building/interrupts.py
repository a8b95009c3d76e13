"""Ctrl+C and SIGTERM during a build."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """Whether to stop, and which signal said so first."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.number: int | None = None

    def take(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal."""
        self.number = self.number or number
        self.stop.set()


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Have SIGINT and SIGTERM set an event rather than end the process; for the main thread."""
    taken = Interrupts()
    before: list[tuple[int, Any]] = [(one, signal.signal(one, taken.take)) for one in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield taken
    finally:
        for number, handler in before:
            signal.signal(number, handler)
