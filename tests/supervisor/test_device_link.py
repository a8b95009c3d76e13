"""Real device processes: started, killed, stopped in the middle, and their jobs replayed."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic

import anyio
import psutil
import pytest
from loguru import logger

from trt_engines.backends.faults import Fault, FaultScript
from trt_engines.backends.ladder import make_backends
from trt_engines.errors import EngineRefused
from trt_engines.model import BUILT_IN, find_models
from trt_worker import frames
from trt_worker.errors import DeviceAway, DeviceLost, DeviceUnusable, FrameTooLarge
from trt_worker.job import ImageSeed, JobSpec, SamplerNode, SourceFit
from trt_worker.plan.route import Plan, route
from trt_worker.supervisor.device_link import RESTART_WAITS, DeviceLink, JobFailed, ProcessLost, run_frame
from trt_worker.supervisor.maker import JobMaker
from trt_worker.supervisor.spawn import DeviceProcess, spawn

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


def a_job(job: str = "job", **changes: object) -> JobSpec:
    settings: dict[str, object] = {
        "id": job,
        "model": "shapes-tiny",
        "prompt": "a red circle",
        "width": 64,
        "height": 64,
        "steps": 3,
        "seeds": (ImageSeed(value=1), ImageSeed(value=2)),
        "received": monotonic(),
        "due": monotonic() + 600,
    }
    return JobSpec(**(settings | changes))  # type: ignore[arg-type]


def a_plan(job: JobSpec, backend: str = "onnxruntime") -> Plan:
    return route(job, find_models()["shapes-tiny"], make_backends([backend]), max_rows=4)


def a_configuration(
    *,
    backends: tuple[str, ...] = ("onnxruntime",),
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
    logs: Path | None = None,
) -> frames.Configure:
    return frames.Configure(
        index=1,
        backends=backends,
        threads=1,
        max_rows=4,
        memory=2**31,
        machine_memory=2**31,
        models=tuple(find_models([folder] if folder else []).values()),
        log_directory=str(logs) if logs else None,
        verbosity=0,
        environment=environment or {},
    )


@asynccontextmanager
async def a_device(
    *,
    backends: tuple[str, ...] = ("onnxruntime",),
    silent_seconds: float = 60.0,
    folder: Path | None = None,
    restart: bool = True,
    started: DeviceProcess | None = None,
    restart_waits: Sequence[float] = RESTART_WAITS,
    environment: dict[str, str] | None = None,
    logs: Path | None = None,
    start_seconds: float = 300.0,
    clock: Callable[[], float] = monotonic,
) -> AsyncIterator[DeviceLink]:
    link = DeviceLink(
        a_configuration(backends=backends, folder=folder, environment=environment, logs=logs),
        silent_seconds=silent_seconds,
        restart=restart,
        started=started,
        restart_waits=restart_waits,
        start_seconds=start_seconds,
        clock=clock,
    )
    async with anyio.create_task_group() as group:
        await group.start(link.run)
        yield link
        group.cancel_scope.cancel()


@pytest.mark.parametrize("backend", ["onnxruntime", "simulated"])
async def test_a_job_comes_back_as_pixels_with_its_timing(backend: str) -> None:
    fractions: list[float] = []
    async with a_device(backends=(backend,)) as link:
        made = await link.make(job := a_job(), a_plan(job, backend), fractions.append)

    assert [image.shape for image in made.images] == [(64, 64, 3), (64, 64, 3)]
    assert made.timing.started <= made.timing.denoised <= made.timing.decoded
    assert made.timing.mean_rows == 2
    assert link.totals.calls == 3


async def test_what_a_job_says_of_its_schedule_and_its_source_reaches_the_device() -> None:
    job = a_job(sampler_node=SamplerNode.KSAMPLER_ADVANCED, end_step=7, source_fit=SourceFit.CUT, strength=0.5)

    packed = frames.pack(run_frame("run", job, a_plan(job)))
    header, _ = frames.sizes(packed[: frames.PREFIX.size])
    run = frames.unpack_to_device(packed[frames.PREFIX.size :][:header])

    assert isinstance(run, frames.Run)
    assert (run.job.sampler_node, run.job.end_step) == (SamplerNode.KSAMPLER_ADVANCED, 7)
    assert (run.job.source_fit, run.job.strength) == (SourceFit.CUT, 0.5)


async def test_a_job_s_shift_and_the_plan_s_sampler_reach_the_device() -> None:
    async with a_device() as link:
        with pytest.raises(JobFailed, match="shifts time as for a flow model"):
            await link.make(job := a_job(shift=3.0), a_plan(job), lambda _: None)
        made = await link.make(job := a_job(sampler="dpm_adaptive", steps=2), a_plan(job), lambda _: None)

    assert len(made.images) == 2


async def test_a_killed_process_loses_its_job_at_once_and_the_next_process_serves() -> None:
    async with a_device() as link:
        first = link.pid
        assert first is not None
        job = a_job(steps=500)
        async with anyio.create_task_group() as group:

            def kill(_: float) -> None:
                os.kill(first, signal.SIGKILL)

            async def lose() -> None:
                with pytest.raises(DeviceLost, match="signal 9"):
                    await link.make(job, a_plan(job), kill)

            group.start_soon(lose)
        made = await link.make(again := a_job("again"), a_plan(again), lambda _: None)

        assert link.pid != first
        assert link.restarts == 1
        assert len(made.images) == 2


async def test_a_process_that_hangs_is_killed_and_replaced() -> None:
    async with a_device(silent_seconds=1.0) as link:
        stopped = link.pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)

        with pytest.raises(DeviceLost, match="no step for"):
            await link.make(job := a_job(), a_plan(job), lambda _: None)

        made = await link.make(again := a_job("again"), a_plan(again), lambda _: None)
        assert len(made.images) == 2
        assert link.pid != stopped


def a_silent_process(*said: frames.FromDevice) -> tuple[DeviceProcess, socket.socket]:
    """A process that has said these things and says nothing more, and its end of the line, to be kept open."""
    ours, theirs = socket.socketpair()
    for header in said:
        theirs.sendall(frames.pack(header))
    return DeviceProcess(process=subprocess.Popen(["sleep", "infinity"]), channel=ours), theirs


@asynccontextmanager
async def a_silent_device(*said: frames.FromDevice) -> AsyncIterator[DeviceLink]:
    process, line = a_silent_process(*said)
    with line:
        async with a_device(silent_seconds=1.0, started=process) as link:
            yield link


async def test_loading_an_engine_is_no_hang() -> None:
    ready = frames.Ready(pid=1)
    async with a_silent_device(ready) as hanging, a_silent_device(ready, frames.Loading(engine="large")) as loading:
        job = a_job()
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(loading.make, job, a_plan(job), lambda _: None)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(DeviceLost, match="no step for"):
                await hanging.make(job, a_plan(job), lambda _: None)

            assert loading.jobs == 1
            assert loading.restarts == 0
            waiting.cancel_scope.cancel()


async def test_a_hang_after_an_engine_was_loaded_is_one() -> None:
    said = frames.Ready(pid=1), frames.Loading(engine="large"), frames.Loaded(engine="large")
    async with a_silent_device(*said) as link:
        with pytest.raises(DeviceLost, match="no step for"):
            await link.make(job := a_job(), a_plan(job), lambda _: None)


async def test_a_hang_while_loading_is_one_after_the_longer_of_both_limits() -> None:
    line_of, theirs = a_silent_process(frames.Ready(pid=1), frames.Loading(engine="large"))
    with theirs:
        async with a_device(silent_seconds=1.0, start_seconds=0.1, started=line_of) as link:
            with pytest.raises(DeviceLost, match="no step for 1 s"):
                await link.make(job := a_job(), a_plan(job), lambda _: None)


class RacingClock:
    """A clock by which an hour passes whenever somebody looks at it."""

    def __init__(self) -> None:
        self.looks = 0
        self._looked = anyio.Event()

    def __call__(self) -> float:
        self.looks += 1
        self._looked.set()
        self._looked = anyio.Event()
        return 3600.0 * self.looks

    async def until(self, looks: int) -> None:
        while self.looks < looks:
            await self._looked.wait()


async def test_an_idle_process_may_be_silent() -> None:
    clock = RacingClock()
    async with a_device(silent_seconds=0.001, clock=clock) as link:
        process = link.pid
        with anyio.fail_after(10):
            await clock.until(clock.looks + 10)  # only the watch for hangs looks at it now

        assert link.pid == process
        assert link.restarts == 0


async def test_a_cancelled_job_leaves_the_device() -> None:
    async with a_device() as link:
        job = a_job(steps=500)
        with anyio.CancelScope() as scope:
            await link.make(job, a_plan(job), lambda _: scope.cancel())

        assert scope.cancelled_caught
        assert link.jobs == 0
        made = await link.make(again := a_job("again"), a_plan(again), lambda _: None)
        assert len(made.images) == 2


async def test_a_device_that_must_not_restart_is_unusable_after_its_first_death() -> None:
    with pytest.RaisesGroup(DeviceUnusable, flatten_subgroups=True):
        async with a_device(restart=False) as link:
            assert link.pid is not None
            os.kill(link.pid, signal.SIGKILL)
            await anyio.sleep_forever()


async def test_a_job_survives_a_killed_process_without_anybody_noticing() -> None:
    async with a_device() as link:
        maker = JobMaker([link], max_rows=4, fell_back=lambda _: None)
        killed: list[int] = []

        def kill_once(_: float) -> None:
            if not killed and link.pid:
                killed.append(link.pid)
                os.kill(link.pid, signal.SIGKILL)

        making = await maker.make(a_job(steps=60), find_models()["shapes-tiny"], kill_once)

        assert killed
        assert link.restarts == 1
        assert len(making.images) == 2


async def test_a_sticky_error_ends_its_process_with_one_clear_line_and_the_job_is_replayed(tmp_path: Path) -> None:
    script = FaultScript(seed=1, rates={Fault.STICKY: 1.0}, folder=str(tmp_path))
    async with a_device(backends=("faulty", "rowwise"), environment=script.environment, logs=tmp_path / "logs") as link:
        with pytest.raises(DeviceLost, match="the device reported an error that only another process is rid of"):
            await link.make(job := a_job(), a_plan(job, "faulty"), lambda _: None)
        maker = JobMaker([link], max_rows=4, fell_back=lambda _: None)
        making = await maker.make(a_job(), find_models()["shapes-tiny"], lambda _: None)

        assert making.plan.backend == "rowwise"
        assert "lost its process with this job 2 times" in making.plan.reason
        assert link.restarts == script.strikes()[Fault.STICKY] == 3
    log = (tmp_path / "logs" / "bridge_1.log").read_text()
    assert log.count("an illegal address was met, says the script. Nothing can be trusted here any more") == 3
    assert "Traceback" not in log


async def test_processes_that_are_lost_in_a_row_are_started_later_and_later() -> None:
    said: list[str] = []
    sink = logger.add(said.append, format="{message}", level="WARNING")
    killed: list[int] = []

    def kill_four(_: float) -> None:
        if len(killed) < 4 and link.pid is not None and link.pid not in killed:
            killed.append(link.pid)
            os.kill(link.pid, signal.SIGKILL)

    async with a_device(restart_waits=(0.0, 0.001, 0.002)) as link:
        maker = JobMaker([link], max_rows=4, fell_back=lambda _: None, crashes_per_backend=5)
        await maker.make(a_job(steps=60), find_models()["shapes-tiny"], kill_four)
    logger.remove(sink)

    waits = [re.findall(r"started again in (\S+) s", line) for line in said]
    assert [wait for found in waits for wait in found] == ["0", "0.001", "0.002", "0.002"]


async def test_a_lost_process_says_who_was_aboard_and_its_device_is_away_until_the_next_one_is_due() -> None:
    async with a_device(restart_waits=(1000.0,)) as link:
        assert link.view("shapes-tiny", "onnxruntime").away == 0
        assert link.pid is not None
        os.kill(link.pid, signal.SIGSTOP)
        pid, job = link.pid, a_job()
        lost: list[ProcessLost] = []

        async def lose() -> None:
            with pytest.raises(ProcessLost) as caught:
                await link.make(job, a_plan(job), lambda _: None)
            lost.append(caught.value)

        async with anyio.create_task_group() as group:
            group.start_soon(lose)
            await anyio.wait_all_tasks_blocked()
            os.kill(pid, signal.SIGKILL)

        (passenger,) = lost[0].loss.aboard
        view = link.view("shapes-tiny", "onnxruntime")
        assert (passenger.job, passenger.backend, passenger.engine) == ("job", "onnxruntime", a_plan(job).engine)
        assert 900 < view.away < 1100
        assert not view.resident


async def test_a_job_that_waits_for_a_process_counts_as_its_device_s_work_and_is_told_when_none_comes() -> None:
    link = DeviceLink(
        a_configuration(logs=Path("/dev/null/logs")), silent_seconds=60.0, restart=True, restart_waits=(0.0,)
    )
    job, told = a_job(), list[float]()

    async def ask() -> None:
        while len(told) < 5:
            try:
                await link.make(job, a_plan(job), lambda _: None)
            except DeviceAway:
                told.append(link.away)
        group.cancel_scope.cancel()

    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert link.view(job.model, "onnxruntime").backlog == job.megapixel_steps
            await link.run()

    assert link.usable, "it is tried for as long as it takes"
    assert [math.isinf(away) for away in told] == [False, False, False, True, True]
    maker = JobMaker([link], max_rows=4, fell_back=lambda _: None)
    with pytest.raises(DeviceUnusable, match="has no process for inf s"):
        await maker.make(job, find_models()["shapes-tiny"], lambda _: None)


async def test_a_job_that_is_due_before_its_device_is_started_again_is_given_back_at_once() -> None:
    async with a_device(restart_waits=(1000.0,)) as link:
        assert link.pid is not None
        maker = JobMaker([link], max_rows=4, fell_back=lambda _: None)

        with anyio.fail_after(60), pytest.raises(DeviceUnusable, match="the job is due in"):
            await maker.make(
                a_job(steps=500, due=monotonic() + 500),
                find_models()["shapes-tiny"],
                lambda _: os.kill(link.pid, signal.SIGKILL) if link.pid else None,
            )


async def test_a_job_that_fits_into_no_frame_fails_alone() -> None:
    async with a_device() as link:
        pid = link.pid
        job = a_job(prompt="x" * frames.MAX_HEADER)

        with pytest.raises(FrameTooLarge):
            await link.make(job, a_plan(job), lambda _: None)
        made = await link.make(a_job(), a_plan(a_job()), lambda _: None)

        assert len(made.images) == 2
        assert link.pid == pid


async def test_what_acting_on_a_frame_throws_is_its_job_s_and_the_device_works_on_it_no_longer() -> None:
    def no_progress(fraction: float) -> None:
        raise ZeroDivisionError("of its progress")

    async with a_device() as link:
        pid, job = link.pid, a_job(steps=500, width=512, height=512, due=monotonic() + 600)

        with pytest.raises(ZeroDivisionError):
            await link.make(job, a_plan(job), no_progress)
        made = await link.make(a_job("next"), a_plan(a_job()), lambda _: None)

        assert len(made.images) == 2
        assert link.pid == pid
        assert (
            link.totals.megapixel_steps < job.megapixel_steps / 16
        )  # worked on to the end, it takes turns with the next


def hear(channel: socket.socket, kind: type[object]) -> None:
    """Read frames until one is of a kind."""
    while True:
        header_bytes, body_bytes = frames.sizes(read(channel, frames.PREFIX.size))
        header = frames.unpack_from_device(read(channel, header_bytes))
        read(channel, body_bytes)
        if isinstance(header, kind):
            return


def read(channel: socket.socket, size: int) -> bytes:
    return channel.recv(size, socket.MSG_WAITALL) if size else b""


@pytest.mark.parametrize("last_words", [frames.PREFIX.pack(2**31, 0), frames.PREFIX.pack(3, 0) + b"???"])
def test_a_device_that_cannot_read_what_it_is_told_ends_amid_its_work(last_words: bytes) -> None:
    job = a_job(steps=500, width=512, height=512)
    with spawn() as device:
        device.channel.sendall(frames.pack(a_configuration()))
        hear(device.channel, frames.Ready)
        device.channel.sendall(frames.pack(run_frame("job", job, a_plan(job))))
        hear(device.channel, frames.Progress)

        device.channel.sendall(last_words)

        assert device.process.wait(timeout=60) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked to end it, as only Linux can be")
def test_a_device_does_not_outlive_a_killed_supervisor_whatever_it_is_at() -> None:
    supervisor = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from trt_worker.supervisor.spawn import spawn\n"
            "device = spawn(); print(device.process.pid, flush=True)\n"
            f"device.channel.sendall(bytes.fromhex('{frames.pack(a_configuration()).hex()}'))\n"
            "print(len(device.channel.recv(1)), flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert supervisor.stdout is not None
    device = psutil.Process(int(supervisor.stdout.readline()))
    assert supervisor.stdout.readline() == b"1\n"
    device.suspend()  # it cannot see that its connection is closed

    supervisor.kill()
    supervisor.communicate()

    device.wait(timeout=60)


async def test_what_loading_a_model_took_is_known_of_the_backend_that_loaded_it() -> None:
    async with a_device() as link:
        assert link.view("shapes-tiny", "onnxruntime").load_seconds is None
        await link.make(job := a_job(), a_plan(job), lambda _: None)

        assert (link.view("shapes-tiny", "onnxruntime").load_seconds or 0) > 0
        assert link.view("shapes-tiny", "pytorch").load_seconds is None


async def test_an_engine_that_cannot_be_loaded_fails_over_and_is_quarantined(tmp_path: Path) -> None:
    folder = shutil.copytree(BUILT_IN / "shapes-tiny", tmp_path / "shapes-tiny")
    (folder / "denoiser.onnx").write_bytes(b"damaged")
    reasons: list[str] = []
    async with a_device(backends=("onnxruntime", "pytorch"), folder=tmp_path) as link:
        maker = JobMaker([link], max_rows=4, fell_back=reasons.append)
        model = find_models([tmp_path])["shapes-tiny"]

        plans = [(await maker.make(a_job(str(number)), model, lambda _: None)).plan for number in range(3)]

    assert [plan.backend for plan in plans] == ["pytorch"] * 3
    assert "failed" in plans[0].reason
    assert "quarantine" in plans[2].reason
    assert len(reasons) == 3
    assert list(maker.quarantined) == ["1 onnxruntime shapes-tiny/denoiser/64x64r8t77"]


async def test_when_the_last_backend_fails_the_job_is_refused_with_every_reason(tmp_path: Path) -> None:
    folder = shutil.copytree(BUILT_IN / "shapes-tiny", tmp_path / "shapes-tiny")
    (folder / "denoiser.onnx").write_bytes(b"damaged")
    async with a_device(folder=tmp_path) as link:
        maker = JobMaker([link], max_rows=4, fell_back=lambda _: None)

        with pytest.raises(EngineRefused, match="onnxruntime: failed"):
            await maker.make(a_job(), find_models([tmp_path])["shapes-tiny"], lambda _: None)


async def test_a_model_that_is_handed_over_later_is_drawn_by_this_process_and_the_next() -> None:
    (shipped,) = find_models().values()
    job = a_job(model="another")
    async with a_device(backends=("dummy",), restart_waits=(0.0,)) as link:
        with pytest.raises(JobFailed) as unknown:
            await link.make(job, a_plan(job, "dummy"), lambda _: None)
        assert unknown.value.failure.kind == "not_at_hand"

        await link.hand_over([replace(shipped, name="another")])
        await link.make(job, a_plan(job, "dummy"), lambda _: None)
        assert link.pid is not None
        os.kill(link.pid, signal.SIGKILL)
        with suppress(ProcessLost, DeviceAway):  # this one may still meet the old process
            await link.make(job, a_plan(job, "dummy"), lambda _: None)

        await link.make(job, a_plan(job, "dummy"), lambda _: None)


async def test_a_job_the_device_cannot_know_fails_without_harm() -> None:
    async with a_device() as link:
        with pytest.raises(JobFailed, match="magic"):
            await link.make(job := a_job(sampler="magic"), a_plan(job), lambda _: None)

        assert link.restarts == 0


async def test_one_job_handed_out_twice_is_made_twice() -> None:
    async with a_device() as link:
        job, made = a_job(), []

        async def make() -> None:
            made.append(await link.make(job, a_plan(job), lambda _: None))

        async with anyio.create_task_group() as both:
            both.start_soon(make)
            both.start_soon(make)

    assert [len(result.images) for result in made] == [2, 2]
