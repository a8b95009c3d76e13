"""Several engines in one go: which build starts when, and what became of each."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from trt_engines.errors import EngineError
from trt_engines.store.errors import WaitingStopped
from trt_export.building.board import Board
from trt_export.building.engine import Built, CannotBuild
from trt_export.building.order import Order
from trt_export.building.progress import Outlook
from trt_export.checkpoints.binding import WeightsMissing
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
from trt_export.child import PhaseFailed, Stopped, Tell

EXPECTED = (EngineError, CannotBuild, PhaseFailed, WeightsMissing, UnreadableCheckpoint, OSError)
"""What a build raises that is said in its own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One engine, and what makes it."""

    order: Order
    build: Callable[[Tell], Built]  # called in a thread of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one task."""

    order: Order
    built: Built | None  # None: it failed or was stopped
    problem: str = ""  # in an operator's words
    stopped: bool = False  # told to, or not begun

    @property
    def good(self) -> bool:
        """Whether the engine may be served."""
        return self.built is not None and self.built.certificate.verdict == "passed"

    @property
    def said(self) -> str:
        """How it ended, in one line."""
        built = self.built
        if built is None:
            return self.problem
        if not self.good:
            return f"built, but it failed its fidelity certificate and is not served ({built.digest[:12]})"
        if not built.fresh:
            return f"is there already ({built.digest[:12]})"
        return f"built in {sum(built.phases.values()):.0f} s ({built.digest[:12]})"


def run_campaign(tasks: Sequence[Task], board: Board, outlook: Outlook, stop: threading.Event) -> tuple[Outcome, ...]:
    """Build everything; one build that fails does not stop the others.

    Args:
        board: shows the outlook, and tells it what begins and ends.
        outlook: on these tasks; it says which starts when.
        stop: no build starts once it is set, and those under way end by themselves.

    Returns: an outcome for each task, in their order.
    """
    running: set[int] = set()
    ended: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
    outcomes: dict[int, Outcome] = {}

    def work(number: int, tell: Tell) -> None:
        ended.put((number, _outcome(tasks[number], tell)))

    while True:
        while not stop.is_set():
            if (number := outlook.admit(outlook.waiting, running)) is None:
                break
            running.add(number)
            tell = board.begin(number)
            threading.Thread(target=work, args=(number, tell), name=tasks[number].order.label, daemon=True).start()
        if not running:
            break
        number, outcome = ended.get()
        running.remove(number)
        outcomes[number] = outcome
        board.end(number, outcome.said)
    never = {
        number: Outcome(order=tasks[number].order, built=None, problem="not begun", stopped=True)
        for number in outlook.waiting
    }
    return tuple((outcomes | never)[number] for number in range(len(tasks)))


def admitted(
    memory: Sequence[int], jobs: int, memory_bytes: int, waiting: Sequence[int], running: Collection[int]
) -> int | None:
    """The next build to start: the first that fits beside those under way, or any first if there is none.

    Args:
        memory: bytes that each build takes.
        jobs: most builds at a time.
        memory_bytes: for all builds at a time; one alone may take more.
    """
    if not waiting or len(running) >= jobs:
        return None
    if not running:
        return waiting[0]
    room = memory_bytes - sum(memory[number] for number in running)
    return next((number for number in waiting if memory[number] <= room), None)


def _outcome(task: Task, tell: Tell) -> Outcome:
    order = task.order
    try:
        return Outcome(order=order, built=task.build(tell))
    except (Stopped, WaitingStopped) as exc:
        return Outcome(order=order, built=None, problem=str(exc), stopped=True)
    except EXPECTED as exc:
        return Outcome(order=order, built=None, problem=" ".join(str(exc).split()))
    except Exception as exc:  # noqa: BLE001 - the other builds go on; a defect of ours is told as one
        place = traceback.extract_tb(exc.__traceback__)[-1]
        problem = f"an error in the worker itself: {exc!r} in {place.name}, {place.filename}:{place.lineno}"
        return Outcome(order=order, built=None, problem=problem)
