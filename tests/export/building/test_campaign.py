"""Several builds in one go, with builds that only say how they end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from trt_engines.modules.registry import module_of
from trt_engines.store.manifest import Certificate
from trt_export.building.board import LiveBoard, PlainBoard
from trt_export.building.campaign import Outcome, Task, admitted, run_campaign
from trt_export.building.engine import Built, CannotBuild
from trt_export.building.order import Order
from trt_export.building.progress import Outlook, Planned
from trt_export.child import Stopped, Tell
from trt_export.estimates import first_of, weights_of

GB = 10**9


def an_order(model: str = "small") -> Order:
    spec = module_of("stable_diffusion_1", "vae_decoder")
    return Order(
        model=model,
        architecture="stable_diffusion_1",
        module=spec,
        precision="float16",
        profiles=((),),
        weights=weights_of(spec.network, "float16"),
        compute_capabilities=(86,),
        library="tensorrt-rtx",
    )


def built(tell: Tell, verdict: str = "passed") -> Built:
    tell("build", 0.5)
    return Built(
        digest="a" * 64,
        size=1,
        fresh=True,
        certificate=Certificate(verdict="passed" if verdict == "passed" else "failed"),
        phases={"build": 2.0},
        peak_bytes=0,
        graph_bytes=0,
        written_bytes=0,
    )


def raising(error: Exception) -> Callable[[Tell], Built]:
    def build(_tell: Tell) -> Built:
        raise error

    return build


def run(*builds: Callable[[Tell], Built], jobs: int = 1, stop: threading.Event | None = None) -> tuple[Outcome, ...]:
    tasks = [Task(order=an_order(f"model {number}"), build=build) for number, build in enumerate(builds)]
    outlook = Outlook([Planned(label=task.order.label, expected={}) for task in tasks], first_of(jobs))
    return run_campaign(tasks, PlainBoard(StringIO(), outlook, lambda: 0.0), outlook, stop or threading.Event())


def test_one_build_that_fails_does_not_stop_the_others() -> None:
    outcomes = run(built, raising(CannotBuild("no disk\nfor it")), lambda tell: built(tell, "failed"), built, jobs=2)

    assert [outcome.good for outcome in outcomes] == [True, False, False, True]
    assert outcomes[1].said == "no disk for it"
    assert "not served" in outcomes[2].said


def test_a_defect_of_the_worker_is_told_as_one_with_its_place() -> None:
    (outcome,) = run(raising(KeyError("x")))

    assert "an error in the worker itself: KeyError('x') in build" in outcome.said


def test_after_a_stop_nothing_is_begun_and_what_was_not_begun_is_told() -> None:
    stop = threading.Event()

    def stopping(_tell: Tell) -> Built:
        stop.set()
        raise Stopped

    outcomes = run(built, stopping, built, stop=stop)

    assert [(outcome.good, outcome.stopped) for outcome in outcomes] == [(True, False), (False, True), (False, True)]
    assert outcomes[2].said == "not begun"


def test_as_many_builds_run_at_a_time_as_are_allowed() -> None:
    both = threading.Barrier(2, timeout=30)

    def meeting(tell: Tell) -> Built:
        both.wait()  # breaks unless another build is under way
        return built(tell)

    assert all(outcome.good for outcome in run(meeting, meeting, meeting, meeting, jobs=2))


@pytest.mark.parametrize(
    ("waiting", "running", "memory", "chosen"),
    [
        ([60.0, 3.0], [], 16, 0),  # alone it may take more than there is
        ([12.0, 3.0], [6.0], 16, 1),  # the first that fits beside what runs
        ([12.0, 6.0], [12.0], 16, None),
        ([], [], 16, None),
        ([1.0], [1.0, 1.0], 64, None),  # two jobs
    ],
)
def test_a_build_starts_where_its_memory_is_left(
    waiting: list[float], running: list[float], memory: int, chosen: int | None
) -> None:
    sizes = [int(size * GB) for size in (*waiting, *running)]
    under_way = range(len(waiting), len(sizes))

    assert admitted(sizes, 2, memory * GB, range(len(waiting)), under_way) == chosen


def test_plain_lines_come_with_each_step_and_not_with_each_percent() -> None:
    stream, clock = StringIO(), iter([0.0, 1.0, 2.0, 20.0, 21.0])
    outlook = Outlook([Planned(label="small", expected={"parse": 1.0, "build": 10.0})], first_of(1))
    tell = PlainBoard(stream, outlook, lambda: next(clock)).begin(0)

    for step, share in (("parse", 0.0), ("build", 0.1), ("build", 0.2), ("build", 0.9), ("certify", 0.0)):
        tell(step, share)

    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
        "small: parse",
        "small: build 10%",
        "small: build 90%",
        "small: certify",
    ]


def test_a_plain_line_says_the_time_left_of_the_engine_and_of_all_engines() -> None:
    stream = StringIO()
    planned = [Planned(label=name, expected={"export": 10.0, "build": 20.0}) for name in ("one", "other")]
    board = PlainBoard(stream, Outlook(planned, first_of(1)), lambda: 0.0)

    board.begin(0)("export", 0.0)

    assert stream.getvalue() == "one: export, about 30 s left; all 2 engines: about 60 s left\n"


def test_a_terminal_shows_a_bar_for_every_build_under_way_and_keeps_what_is_said() -> None:
    stream = StringIO()
    planned = [Planned(label=f"small {name}", expected={"build": 10.0}) for name in ("denoiser", "decoder", "encoder")]
    board = LiveBoard(Console(file=stream, force_terminal=True, width=120), Outlook(planned, first_of(2)))

    with board.shown():
        tell = board.begin(0)
        tell("build", 0.4)
        board.begin(1)
        board.end(1, "built in 3 s")

    shown = stream.getvalue()  # the last drawing is the one of the block's end
    assert "build 40%, about" in shown
    assert "small decoder: built in 3 s" in shown
    assert "all 3 engines: about" in shown
