"""Several engines in one go: which build starts when, and what became of each."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trt_engines.errors import EngineError
from trt_engines.store.errors import WaitingStopped
from trt_export.building.board import Board
from trt_export.building.engine import Built, CannotBuild
from trt_export.building.order import Order
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


def run_campaign(
    tasks: Sequence[Task], board: Board, stop: threading.Event, *, jobs: int, memory_bytes: int
) -> tuple[Outcome, ...]:
    """Build everything; one build that fails does not stop the others.

    Args:
        stop: no build starts once it is set, and those under way end by themselves.
        jobs: most builds at a time.
        memory_bytes: for all builds at a time; one alone may take more.

    Returns: an outcome for each task, in their order.
    """
    orders = [task.order for task in tasks]
    waiting, running = list(range(len(tasks))), set[int]()
    ended: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
    outcomes: dict[int, Outcome] = {}

    def work(number: int, tell: Tell) -> None:
        ended.put((number, _outcome(tasks[number], tell)))

    while True:
        while not stop.is_set():
            under_way = [orders[number] for number in running]
            if (number := admitted(waiting, orders, under_way, jobs, memory_bytes)) is None:
                break
            waiting.remove(number)
            running.add(number)
            tell = board.begin(orders[number].label, orders[number].expected)
            threading.Thread(target=work, args=(number, tell), name=orders[number].label, daemon=True).start()
        if not running:
            break
        number, outcome = ended.get()
        running.remove(number)
        outcomes[number] = outcome
        board.end(outcome.order.label, outcome.said)
    never = {number: Outcome(order=orders[number], built=None, problem="not begun", stopped=True) for number in waiting}
    return tuple((outcomes | never)[number] for number in range(len(tasks)))


def admitted(
    waiting: Sequence[int], orders: Sequence[Order], running: Sequence[Order], jobs: int, memory_bytes: int
) -> int | None:
    """The next order to start: the first that fits beside those under way, or any first if there is none."""
    if not waiting or len(running) >= jobs:
        return None
    if not running:
        return waiting[0]
    room = memory_bytes - sum(one.build_bytes for one in running)
    return next((number for number in waiting if orders[number].build_bytes <= room), None)


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
