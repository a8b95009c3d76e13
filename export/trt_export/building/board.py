"""What people see of builds under way: bars on a terminal, plain lines elsewhere. Builds report from their threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trt_engines.text import message
from trt_export.building.progress import Outlook, Standing
from trt_export.child import Tell

WIDTH = 24
"""Cells of a bar."""

LINE_SECONDS = 10.0
"""Least between two plain lines on the same step of an engine."""


class Board(Protocol):
    """Where builds are shown."""

    def begin(self, number: int) -> Tell:
        """Show another build; gives what it reports to. Args: number: of the outlook's builds."""

    def end(self, number: int, line: str) -> None:
        """A build is over: say how it ended, and show it no more."""

    def say(self, line: str) -> None:
        """Write a line that stays."""


@contextmanager
def open_board(stream: IO[str], outlook: Outlook) -> Iterator[Board]:
    """The board that suits a stream. Args: outlook: on the builds to show; nobody else changes it meanwhile."""
    if stream.isatty():
        board = LiveBoard(Console(file=stream), outlook)
        with board.shown():
            yield board
    else:
        yield PlainBoard(stream, outlook, time.monotonic)


class PlainBoard:
    """A line for every step that begins, and from time to time how far it is: for files and other programs."""

    def __init__(self, stream: IO[str], outlook: Outlook, clock: Callable[[], float]) -> None:
        self._stream, self._outlook, self._clock = stream, outlook, clock
        self._turn = threading.Lock()

    def begin(self, number: int) -> Tell:
        """As `Board.begin`."""
        with self._turn:
            track = self._outlook.begin(number)
        label, last, said = self._outlook.builds[number].label, "", 0.0

        def tell(step: str, share: float) -> None:
            nonlocal last, said
            with self._turn:
                now = self._clock()
                standing = track.at(step, share, now)
                if step != last or now - said >= LINE_SECONDS:
                    last, said = step, now
                    self._write(f"{label}: {described(standing)}{self._whole(now)}")

        return tell

    def end(self, number: int, line: str) -> None:
        """As `Board.end`."""
        with self._turn:
            self._outlook.end(number)
            self._write(f"{self._outlook.builds[number].label}: {line}")

    def say(self, line: str) -> None:
        """As `Board.say`."""
        with self._turn:
            self._write(line)

    def _whole(self, now: float) -> str:
        return f"; {whole(self._outlook, now)}" if len(self._outlook.builds) > 1 else ""

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()


class LiveBoard:
    """A bar for every build, and a line for all of them, redrawn in place."""

    def __init__(self, console: Console, outlook: Outlook) -> None:
        self._console, self._outlook = console, outlook
        self._turn = threading.Lock()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw for as long as the block runs."""
        with Live(console=self._console, get_renderable=self._table, refresh_per_second=4, transient=True):
            yield

    def begin(self, number: int) -> Tell:
        """As `Board.begin`."""
        with self._turn:
            track = self._outlook.begin(number)

        def tell(step: str, share: float) -> None:
            with self._turn:
                track.at(step, share, time.monotonic())

        return tell

    def end(self, number: int, line: str) -> None:
        """As `Board.end`."""
        with self._turn:
            self._outlook.end(number)
        self.say(f"{self._outlook.builds[number].label}: {line}")

    def say(self, line: str) -> None:
        """As `Board.say`."""
        self._console.print(Text(message(line)))

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 2))
        with self._turn:
            now = time.monotonic()
            for number, track in self._outlook.under_way.items():
                standing = track.standing(now)
                filled = round(WIDTH * standing.done)
                bar = Text("━" * filled, "green") + Text("━" * (WIDTH - filled), "bright_black")
                table.add_row(Text(self._outlook.builds[number].label), bar, Text(described(standing)))
            return Group(table, Text(whole(self._outlook, now))) if len(self._outlook.builds) > 1 else Group(table)


def described(standing: Standing) -> str:
    """A standing as people read it: "build 40 %, about 25 s left"."""
    share = f" {standing.share:.0%}" if 0 < standing.share < 1 else ""
    return f"{standing.step or 'starting'}{share}, about {duration(standing.left)} left"


def whole(outlook: Outlook, now: float) -> str:
    """The standing of all builds: "all 4 engines: about 3 min left"."""
    return f"all {len(outlook.builds)} engines: about {duration(outlook.left(now))} left"


def duration(seconds: float) -> str:
    """As in "45 s", "12 min" or "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
