"""Several builds in one go, with builds that only say how they end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from io import StringIO

import pytest

from trt_engines.bucket import Bucket
from trt_engines.store.manifest import Certificate
from trt_export.architectures.registry import architecture
from trt_export.building.board import PlainBoard
from trt_export.building.campaign import Outcome, Task, admitted, run_campaign
from trt_export.building.engine import Built, CannotBuild
from trt_export.building.order import Order
from trt_export.child import Stopped, Tell

GB = 10**9


def an_order(model: str = "small", gigabytes: float = 1.0) -> Order:
    """One that takes about 3.4 times its gigabytes of weights of memory."""
    component = replace(architecture("stable_diffusion_1").component("vae_decoder"), parameters=int(gigabytes * GB / 2))
    return Order(
        model=model,
        architecture="stable_diffusion_1",
        component=component,
        precision="float16",
        profiles=((),),
        buckets=(Bucket(width=64, height=64, rows=1),),
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
    board = PlainBoard(StringIO(), lambda: 0.0)
    return run_campaign(tasks, board, stop or threading.Event(), jobs=jobs, memory_bytes=64 * GB)


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
        ([20.0, 1.0], [], 16, 0),  # alone it may take more than there is
        ([4.0, 1.0], [2.0], 16, 1),  # the first that fits beside what runs
        ([4.0, 2.0], [4.0], 16, None),
        ([], [], 16, None),
        ([1.0], [1.0, 1.0], 64, None),  # two jobs
    ],
)
def test_a_build_starts_where_its_memory_is_left(
    waiting: list[float], running: list[float], memory: int, chosen: int | None
) -> None:
    orders = [an_order(gigabytes=size) for size in waiting]
    under_way = [an_order(gigabytes=size) for size in running]

    assert admitted(range(len(orders)), orders, under_way, 2, memory * GB) == chosen


def test_plain_lines_come_with_each_step_and_not_with_each_percent() -> None:
    stream, clock = StringIO(), iter([0.0, 1.0, 2.0, 20.0, 21.0])
    tell = PlainBoard(stream, lambda: next(clock)).begin("small", {"parse": 1.0, "build": 10.0})

    for step, share in (("parse", 0.0), ("build", 0.1), ("build", 0.2), ("build", 0.9), ("certify", 0.0)):
        tell(step, share)

    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
        "small: parse",
        "small: build 10%",
        "small: build 90%",
        "small: certify",
    ]
