"""What people see of builds under way: bars on a terminal, plain lines elsewhere. Builds report from their threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trt_engines.text import message
from trt_export.building.progress import Standing, Track
from trt_export.child import Tell

WIDTH = 24
"""Cells of a bar."""

LINE_SECONDS = 10.0
"""Least between two plain lines on the same step of an engine."""


class Board(Protocol):
    """Where builds are shown."""

    def begin(self, label: str, expected: Mapping[str, float]) -> Tell:
        """Show another build; gives what it reports to. Args: expected: seconds of each phase."""

    def end(self, label: str, line: str) -> None:
        """A build is over: say how it ended, and show it no more."""

    def say(self, line: str) -> None:
        """Write a line that stays."""


@contextmanager
def open_board(stream: IO[str]) -> Iterator[Board]:
    """The board that suits a stream."""
    if stream.isatty():
        board = LiveBoard(Console(file=stream))
        with board.shown():
            yield board
    else:
        yield PlainBoard(stream, time.monotonic)


class PlainBoard:
    """A line for every step that begins, and from time to time how far it is: for files and other programs."""

    def __init__(self, stream: IO[str], clock: Callable[[], float]) -> None:
        self._stream, self._clock = stream, clock
        self._turn = threading.Lock()

    def begin(self, label: str, expected: Mapping[str, float]) -> Tell:
        """As `Board.begin`."""
        track = Track(expected)
        last, said = "", 0.0

        def tell(step: str, share: float) -> None:
            nonlocal last, said
            with self._turn:
                now = self._clock()
                standing = track.at(step, share, now)
                if step != last or now - said >= LINE_SECONDS:
                    last, said = step, now
                    self._write(f"{label}: {described(standing)}")

        return tell

    def end(self, label: str, line: str) -> None:
        """As `Board.end`."""
        self.say(f"{label}: {line}")

    def say(self, line: str) -> None:
        """As `Board.say`."""
        with self._turn:
            self._write(line)

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()


class LiveBoard:
    """A bar for every build, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tracks: dict[str, Track] = {}
        self._turn = threading.Lock()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw for as long as the block runs."""
        with Live(console=self._console, get_renderable=self._table, refresh_per_second=4, transient=True):
            yield

    def begin(self, label: str, expected: Mapping[str, float]) -> Tell:
        """As `Board.begin`."""
        track = Track(expected)
        with self._turn:
            self._tracks[label] = track

        def tell(step: str, share: float) -> None:
            with self._turn:
                track.at(step, share, time.monotonic())

        return tell

    def end(self, label: str, line: str) -> None:
        """As `Board.end`."""
        with self._turn:
            self._tracks.pop(label, None)
        self.say(f"{label}: {line}")

    def say(self, line: str) -> None:
        """As `Board.say`."""
        self._console.print(Text(message(line)))

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 2))
        with self._turn:
            now = time.monotonic()
            for label, track in self._tracks.items():
                standing = track.standing(now)
                filled = round(WIDTH * standing.done)
                bar = Text("━" * filled, "green") + Text("━" * (WIDTH - filled), "bright_black")
                table.add_row(Text(label), bar, Text(described(standing)))
        return Group(table)


def described(standing: Standing) -> str:
    """A standing as people read it: "build 40 %, about 25 s left"."""
    share = f" {standing.share:.0%}" if 0 < standing.share < 1 else ""
    return f"{standing.step or 'starting'}{share}, about {duration(standing.left)} left"


def duration(seconds: float) -> str:
    """As in "45 s", "12 min" or "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
