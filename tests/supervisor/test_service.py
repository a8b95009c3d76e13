"""The supervisor's service: room, refusals, failures told honestly, and one receipt per offer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

import aiohttp
import anyio
import numpy as np
import pytest

from trt_engines.bucket import Bucket
from trt_engines.errors import EngineRefused
from trt_engines.model import Model, find_models
from trt_worker import frames
from trt_worker.delivery import EncodedImage, IntakeEnd, Offer, Receipt, Settlement, UploadSlot
from trt_worker.encode.encoder import Encoder
from trt_worker.errors import BadJob, DeviceUnusable, LateJob, UnservableJob
from trt_worker.job import ImageSeed, JobSpec
from trt_worker.plan.pace import Pace
from trt_worker.plan.route import Plan
from trt_worker.submit.upload import Uploader
from trt_worker.supervisor.device_link import MadeJob
from trt_worker.supervisor.maker import Making
from trt_worker.supervisor.service import Service
from trt_worker.telemetry.metrics import JobRecord, Tally

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Way:
    """A way back that remembers what it was given; images travel inline."""

    def __init__(self, images: int = 1) -> None:
        self.slots: Sequence[UploadSlot | None] = (None,) * images
        self.withdrawn = anyio.Event()
        self.delivered: list[Sequence[EncodedImage | None]] = []
        self.failed: list[str] = []
        self.given_back: list[str] = []

    async def progress(self, fraction: float) -> None:
        return

    async def deliver(self, images: Sequence[EncodedImage | None]) -> Receipt:
        self.delivered.append(images)
        return Receipt(settlement=Settlement.PAID, reward=2.0, unit="den")

    async def fail(self, public: str) -> Receipt:
        self.failed.append(public)
        return Receipt(settlement=Settlement.FAILED)

    async def give_back(self, reason: str) -> Receipt:
        self.given_back.append(reason)
        return Receipt(settlement=Settlement.RETURNED)


class Scripted:
    """A maker that gives grey pictures, raises, or never comes back."""

    devices = 1
    away = 0.0

    def __init__(self, error: Exception | None = None, *, hangs: bool = False) -> None:
        self.error, self.hangs = error, hangs
        self.begun = anyio.Event()

    async def make(self, job: JobSpec, model: Model, progress: Callable[[float], None]) -> Making:
        self.begun.set()
        if self.hangs:
            await anyio.sleep_forever()
        if self.error:
            raise self.error
        timing = frames.Made(id=job.id, started=1, denoised=2, decoded=2, engine_seconds=1, mean_rows=1)
        images = tuple(np.full((job.height, job.width, 3), 90, np.uint8) for _ in job.seeds)
        plan = Plan(
            backend="dummy",
            engine="e",
            bucket=Bucket(width=job.width, height=job.height, rows=8),
            reason="first choice",
            fallback=False,
            sampler=job.sampler,
        )
        return Making(images=images, plan=plan, made=MadeJob(images=images, timing=timing))


def a_job(job: str = "job", *, images: int = 1, due: float = 600.0) -> JobSpec:
    return JobSpec(
        id=job,
        model="shapes-tiny",
        prompt="",
        width=64,
        height=64,
        steps=10,
        seeds=tuple(ImageSeed(value=number) for number in range(images)),
        received=monotonic(),
        due=monotonic() + due,
    )


def a_service(session: aiohttp.ClientSession, maker: Scripted, records: list[JobRecord]) -> Service:
    return Service(
        models=find_models(),
        maker=maker,  # type: ignore[arg-type]
        encoder=Encoder(),
        uploader=Uploader(lambda network: session),
        tally=Tally(began=monotonic()),
        depth=4,
        finished=records.append,
    )


async def serve(job: JobSpec, maker: Scripted) -> tuple[Way, list[JobRecord]]:
    way, records = Way(len(job.seeds)), list[JobRecord]()
    async with aiohttp.ClientSession() as session:
        await a_service(session, maker, records).serve(Offer(job=job, delivery=way, transport="grid"))
    return way, records


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError(), RecursionError("deep")])
async def test_whatever_is_thrown_while_a_job_is_made_hands_it_back_and_is_counted_once(error: Exception) -> None:
    way, (record,) = await serve(a_job(), Scripted(error))

    assert way.given_back == [f"an unexpected {type(error).__name__}"]
    assert not way.delivered
    assert not way.failed
    assert record.settlement is Settlement.RETURNED


async def test_a_way_back_that_is_broken_altogether_ends_nothing_but_its_job() -> None:
    class Broken(Way):
        async def progress(self, fraction: float) -> None:
            raise ValueError("no progress")

        async def deliver(self, images: Sequence[EncodedImage | None]) -> Receipt:
            raise ValueError("no delivery")

        async def give_back(self, reason: str) -> Receipt:
            raise ValueError("no way back")

    records = list[JobRecord]()
    async with aiohttp.ClientSession() as session:
        service = a_service(session, Scripted(), records)
        await service.serve(Offer(job=a_job(), delivery=Broken(), transport="grid"))

    assert service.jobs == 0
    assert [record.settlement for record in records] == [Settlement.RETURNED]


async def test_a_job_that_is_due_before_any_device_is_there_is_refused_and_none_is_asked_for_without_end() -> None:
    maker = Scripted()
    async with aiohttp.ClientSession() as session:
        service = a_service(session, maker, [])
        assert service.refusal(a_job(due=100)) is None
        maker.away = 200.0
        assert "no device has a process for 200 s" in (service.refusal(a_job(due=100)) or "")
        assert service.room() == 4
        maker.away = math.inf
        assert service.room() == 0


async def test_a_job_becomes_encoded_images_and_a_paid_record() -> None:
    way, (record,) = await serve(a_job(images=3), Scripted())

    assert [image.index for image in way.delivered[0] if image] == [0, 1, 2]
    assert (record.settlement, record.reward, record.images) == (Settlement.PAID, 2.0, 3)


@pytest.mark.parametrize(
    ("error", "public"),
    [
        (BadJob("a secret path"), BadJob.public),
        (UnservableJob("a secret path"), UnservableJob.public),
        (LateJob("a secret path"), "The job could not be run."),
    ],
)
async def test_a_job_that_cannot_be_made_is_failed_with_a_text_that_tells_nothing(
    error: Exception, public: str
) -> None:
    way, (record,) = await serve(a_job(), Scripted(error))

    assert way.failed == [public]
    assert not way.delivered
    assert (record.settlement, record.images) == (Settlement.FAILED, 0)


@pytest.mark.parametrize("error", [EngineRefused("no backend is left"), DeviceUnusable("no device is left")])
async def test_a_job_that_only_this_rig_cannot_make_goes_back_to_the_network(error: Exception) -> None:
    way, (record,) = await serve(a_job(), Scripted(error))

    assert (way.given_back, way.failed, way.delivered) == ([str(error)], [], [])
    assert (record.settlement, record.images) == (Settlement.RETURNED, 0)


async def test_a_job_that_ended_at_intake_is_counted_like_any_other() -> None:
    records: list[JobRecord] = []
    async with aiohttp.ClientSession() as session:
        service = a_service(session, Scripted(), records)
        for settlement in (Settlement.FAILED, Settlement.RETURNED):
            receipt = Receipt(settlement=settlement, unit="den", detail="no such node")
            service.ended(IntakeEnd(id="job", model="m", transport="grid", receipt=receipt, received=monotonic()))

    snapshot = service.tally.snapshot(monotonic())
    assert (snapshot.jobs, snapshot.images) == (2, 0)
    assert (snapshot.settled[Settlement.FAILED], snapshot.settled[Settlement.RETURNED]) == (1, 1)
    assert records == []  # its transport has told the operator why


async def test_a_withdrawn_job_stops_at_once_and_is_neither_delivered_nor_failed() -> None:
    maker, way, records = Scripted(hangs=True), Way(), list[JobRecord]()
    async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:
        service = a_service(session, maker, records)
        group.start_soon(service.serve, Offer(job=a_job(), delivery=way, transport="grid"))
        await maker.begun.wait()
        way.withdrawn.set()

    assert records[0].settlement is Settlement.RETURNED
    assert not way.delivered
    assert not way.failed


async def test_one_job_on_two_connections_is_counted_twice_and_breaks_nothing() -> None:
    maker, ways, records = Scripted(hangs=True), (Way(), Way()), list[JobRecord]()
    async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:
        service, job = a_service(session, maker, records), a_job()
        for way in ways:
            group.start_soon(service.serve, Offer(job=job, delivery=way, transport="grid"))
        await anyio.wait_all_tasks_blocked()
        assert service.jobs == 2
        for way in ways:
            way.withdrawn.set()

    assert len(records) == 2
    assert service.jobs == 0


async def test_room_is_what_the_queue_has_left_and_comes_back_when_a_job_ends() -> None:
    maker, way = Scripted(hangs=True), Way(4)
    async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:
        service = a_service(session, maker, [])
        assert service.room() == 4
        group.start_soon(service.serve, Offer(job=a_job(images=4), delivery=way, transport="horde"))
        await maker.begun.wait()
        assert service.room() == 0

        way.withdrawn.set()
        with anyio.fail_after(5):
            await service.wait_for_room()
        assert service.room() == 4


async def test_a_job_that_would_be_late_or_names_no_model_of_ours_is_refused_before_it_is_taken() -> None:
    async with aiohttp.ClientSession() as session:
        service = a_service(session, Scripted(), [])
        assert service.refusal(a_job(due=1)) is None
        service.pace = Pace(seconds_per_megapixel_step=1000.0)

        late = service.refusal(a_job(due=1))

        assert late is not None
        assert "due" in late
        assert "not served" in str(service.refusal(replace(a_job(), model="another")))


async def test_a_job_that_was_given_out_before_its_model_was_taken_off_is_still_made() -> None:
    records: list[JobRecord] = []
    async with aiohttp.ClientSession() as session:
        service = a_service(session, Scripted(), records)
        service.offer({})

        assert service.models_served() == {}
        assert service.refusal(a_job()) is None
        await service.serve(Offer(job=a_job(), delivery=Way(), transport="grid"))

    assert records[0].settlement is Settlement.PAID


async def test_a_model_that_is_described_as_before_stays_the_same_object() -> None:
    async with aiohttp.ClientSession() as session:
        service = a_service(session, Scripted(), [])
        before = service.models["shapes-tiny"]
        service.offer(find_models())
        assert service.models["shapes-tiny"] is before

        other = replace(before, shift=2.0)
        service.offer({"shapes-tiny": other})
        assert service.models["shapes-tiny"] is other


async def test_whoever_waits_for_other_models_is_woken_by_those_alone() -> None:
    woken = anyio.Event()
    async with aiohttp.ClientSession() as session, anyio.create_task_group() as tasks:
        service = a_service(session, Scripted(), [])

        async def wait() -> None:
            await service.models_changed()
            woken.set()

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        service.offer(dict(service.models))
        await anyio.wait_all_tasks_blocked()
        assert not woken.is_set()

        service.offer({})
        with anyio.fail_after(10):
            await woken.wait()
