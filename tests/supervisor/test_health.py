"""Quarantines that end, models that are withdrawn and offered again: on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import anyio
import anyio.lowlevel
import numpy as np
import pytest
from loguru import logger

from trt_engines.backends.ladder import make_backends
from trt_engines.model import Model, find_models
from trt_worker import frames
from trt_worker.concurrency import Clock
from trt_worker.errors import DeviceAway
from trt_worker.job import JobSpec
from trt_worker.plan.quarantine import PROBE_WAITS, Suspect
from trt_worker.plan.route import Plan
from trt_worker.supervisor.device_link import JobFailed, MadeJob
from trt_worker.supervisor.health import Health
from trt_worker.supervisor.probe import Trial

pytestmark = pytest.mark.anyio

MODEL = find_models()["shapes-tiny"]
ENGINE = "shapes-tiny/denoiser/64x64r8t77"
SMALL = Trial(model=MODEL, size=(64, 64))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the operator was told."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    yield lines
    logger.remove(sink)


class Hand:
    """A clock that is set by hand: who sleeps until a time wakes when it is set to that."""

    def __init__(self) -> None:
        self.now = 0.0
        self._moved = anyio.Event()

    async def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            await self._moved.wait()

    async def to(self, now: float) -> None:
        """Set it, and let whoever it wakes do what there is to do."""
        self.now = now
        self._moved.set()
        self._moved = anyio.Event()
        for _ in range(100):  # turns of the loop; a cancellation takes some of its own
            await anyio.lowlevel.checkpoint()


class Rig:
    """A device whose backends make probes or fail with them."""

    def __init__(self, hand: Hand, *backends: str, index: int = 1) -> None:
        self.index = index
        self.ladder = make_backends(backends or ("onnxruntime", "pytorch"))
        self.usable = True
        self.broken: set[str] = set()  # backends
        self.away = False
        self.probes: list[tuple[float, str, int]] = []  # when, backend, width
        self._hand = hand

    async def make(self, job: JobSpec, plan: Plan, progress: Callable[[float], None]) -> MadeJob:
        await anyio.lowlevel.checkpoint()
        if self.away:
            raise DeviceAway("starting again")
        self.probes.append((self._hand.now, plan.backend, job.width))
        if plan.backend in self.broken:
            raise JobFailed(frames.Failed(id=job.id, kind="fault", backend="", engine="", message="it is cut"))
        timing = frames.Made(id=job.id, started=0, denoised=1, decoded=1, engine_seconds=1, mean_rows=1)
        return MadeJob(images=(np.full((job.height, job.width, 3), 90, np.uint8),), timing=timing)

    async def hand_over(self, models: Collection[Model], *, anew: bool = False) -> None:
        return


def suspect(backend: str = "onnxruntime", engine: str = ENGINE, device: int = 1) -> Suspect:
    return Suspect(device=device, backend=backend, model=MODEL.name, engine=engine)


def a_health(hand: Hand, *rigs: Rig, **settings: object) -> Health:
    return Health(rigs, max_rows=4, clock=Clock(now=lambda: hand.now, sleep=hand.sleep), **settings)  # type: ignore[arg-type]


async def test_a_quarantined_engine_is_probed_at_its_size_and_comes_back_when_it_works(said: list[str]) -> None:
    hand = Hand()
    rig = Rig(hand)
    health = a_health(hand, rig)
    async with anyio.create_task_group() as group:
        group.start_soon(health.run)
        for _ in range(2):
            health.blame(suspect(), SMALL, "it failed")
        health.made(suspect("pytorch"))
        await hand.to(PROBE_WAITS[0] - 1)
        assert health.refusal(suspect()) == f"{ENGINE} is in quarantine: it failed"
        assert (0.0, "onnxruntime", 64) not in rig.probes

        await hand.to(PROBE_WAITS[0])
        group.cancel_scope.cancel()

    assert (PROBE_WAITS[0], "onnxruntime", 64) in rig.probes
    assert health.refusal(suspect()) is None
    assert any("works again" in line for line in said)


async def test_each_failed_probe_puts_the_next_one_off_for_longer() -> None:
    hand = Hand()
    rig = Rig(hand, "onnxruntime")
    rig.broken = {"onnxruntime"}
    health = a_health(hand, rig)
    async with anyio.create_task_group() as group:
        group.start_soon(health.run)
        health.withhold(MODEL, "it is cut")
        now = 0.0
        for wait in PROBE_WAITS:
            await hand.to(now + wait - 0.5)
            assert [at for at, *_ in rig.probes if at > now] == []
            now += wait
            await hand.to(now)
        group.cancel_scope.cancel()

    whens = [at for at, *_ in rig.probes]
    assert [after - before for before, after in zip([0.0, *whens], whens, strict=False)] == list(PROBE_WAITS)


async def test_a_model_that_nothing_can_run_is_withdrawn_said_and_offered_again_by_a_probe(said: list[str]) -> None:
    hand, changes = Hand(), list[frozenset[str]]()
    rig = Rig(hand)
    rig.broken = {"onnxruntime", "pytorch"}
    health = a_health(hand, rig, changed=lambda: changes.append(health.withdrawn))
    async with anyio.create_task_group() as group:
        group.start_soon(health.run)
        for backend in ("onnxruntime", "pytorch"):
            assert await health.verdict(suspect(backend), SMALL, hand.now) == "it is cut"
        assert health.withdrawn == {"shapes-tiny"}

        rig.broken = {"onnxruntime"}
        await hand.to(PROBE_WAITS[0])
        group.cancel_scope.cancel()

    assert health.withdrawn == frozenset()
    assert health.refusal(suspect("pytorch")) is None  # at whatever size it failed before
    assert changes == [{"shapes-tiny"}, frozenset()]
    assert [line for line in said if "offered" in line] == [
        "shapes-tiny is not offered any more: nothing here can run it now (1 onnxruntime shapes-tiny: it is cut; "
        "1 pytorch shapes-tiny: it is cut). It is tried again from time to time, and offered when it works.",
        "shapes-tiny is offered again: it works.",
    ]


async def test_an_engine_that_fails_at_one_size_only_does_not_withdraw_the_model() -> None:
    class OneSize(Rig):
        async def make(self, job: JobSpec, plan: Plan, progress: Callable[[float], None]) -> MadeJob:
            self.broken = {"onnxruntime"} if job.width == 64 else set()
            return await super().make(job, plan, progress)

    hand = Hand()
    rig = OneSize(hand, "onnxruntime")
    health = a_health(hand, rig)

    assert await health.verdict(suspect(), SMALL, 0.0) == "it is cut"

    assert [width for *_, width in rig.probes] == [64, 128]
    assert list(health.barred) == [suspect()]
    assert health.withdrawn == frozenset()


async def test_backends_are_probed_one_after_the_other_and_the_best_one_brings_the_model_back() -> None:
    offered_when: dict[str, bool] = {}

    class Watched(Rig):
        async def make(self, job: JobSpec, plan: Plan, progress: Callable[[float], None]) -> MadeJob:
            offered_when[plan.backend] = not health.withdrawn
            return await super().make(job, plan, progress)

    hand = Hand()
    rig = Watched(hand)
    health = a_health(hand, rig)
    health.withhold(MODEL, "because")
    hand.now = PROBE_WAITS[0]

    await health.probe_due()

    assert [backend for _, backend, _ in rig.probes] == ["onnxruntime", "pytorch"]
    assert offered_when == {"onnxruntime": False, "pytorch": True}


async def test_jobs_that_fail_together_share_one_probe() -> None:
    hand = Hand()
    rig = Rig(hand, "onnxruntime")
    health = a_health(hand, rig)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(health.verdict, suspect(), SMALL, 0.0)

    assert len(rig.probes) == 1


async def test_a_model_that_works_on_one_device_stays_on_offer() -> None:
    hand = Hand()
    broken, sound = Rig(hand, "onnxruntime"), Rig(hand, "onnxruntime", index=2)
    broken.broken = {"onnxruntime"}
    health = a_health(hand, broken, sound)

    await health.verdict(suspect(), SMALL, 0.0)

    assert health.refusal(suspect()) is not None
    assert health.refusal(suspect(device=2)) is None
    assert health.withdrawn == frozenset()


async def test_damage_that_can_be_seen_is_told_without_loading_anything_and_ends_when_it_is_mended() -> None:
    hand, wrong = Hand(), ["its weights are cut"]
    rig = Rig(hand)
    health = a_health(hand, rig, damage=lambda _: wrong[0])
    async with anyio.create_task_group() as group:
        group.start_soon(health.run)
        health.withhold(MODEL, wrong[0])
        assert health.withdrawn == {"shapes-tiny"}
        hand.now = PROBE_WAITS[0]
        await health.probe_due()  # it looks in a thread, which is not waited for otherwise
        assert rig.probes == []
        assert health.withdrawn == {"shapes-tiny"}

        wrong[0] = ""
        hand.now += PROBE_WAITS[1]
        await health.probe_due()
        group.cancel_scope.cancel()

    assert health.withdrawn == frozenset()


async def test_a_device_that_is_away_says_nothing_and_is_asked_later() -> None:
    hand = Hand()
    rig = Rig(hand, "onnxruntime")
    health = a_health(hand, rig)
    health.withhold(MODEL, "because")
    rig.away = True
    hand.now = PROBE_WAITS[0]

    await health.probe_due()
    assert health.withdrawn == {"shapes-tiny"}
    await health.probe_due()  # not due
    rig.away = False
    hand.now += PROBE_WAITS[0]
    await health.probe_due()

    assert health.withdrawn == frozenset()
    assert await health.verdict(suspect(), SMALL, hand.now + 1) == ""


async def test_what_is_barred_is_probed_at_once_when_something_may_have_been_mended() -> None:
    hand = Hand()
    rig = Rig(hand, "onnxruntime")
    health = a_health(hand, rig)
    health.withhold(MODEL, "because")
    hand.now = 1.0

    health.retry()
    await health.probe_due()

    assert health.withdrawn == frozenset()


async def test_there_is_no_telling_of_an_engine_whose_device_is_away() -> None:
    hand = Hand()
    rig = Rig(hand, "onnxruntime")
    rig.away = True

    assert await a_health(hand, rig).verdict(suspect(), SMALL, 0.0) is None
