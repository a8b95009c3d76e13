"""Several devices in one rig, with real processes."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence
from time import monotonic

import anyio
import pytest

from trt_engines.model import find_models
from trt_worker import frames
from trt_worker.app import start_devices
from trt_worker.errors import DeviceUnusable
from trt_worker.job import ImageSeed, JobSpec
from trt_worker.supervisor.device_link import RESTART_WAITS, DeviceLink
from trt_worker.supervisor.maker import JobMaker

pytestmark = pytest.mark.anyio


def a_link(index: int, *, broken: bool = False, restart_waits: Sequence[float] = ()) -> DeviceLink:
    """A device, or one that cannot write its logs and ends at once.

    Args:
        restart_waits: seconds until a lost process is started again; without any it is not.
    """
    configure = frames.Configure(
        index=index,
        backends=("dummy",),
        threads=1,
        max_rows=4,
        memory=2**31,
        machine_memory=2**31,
        models=tuple(find_models().values()),
        log_directory="/dev/null/logs" if broken else None,
        verbosity=0,
    )
    return DeviceLink(
        configure, silent_seconds=60.0, restart=bool(restart_waits), restart_waits=restart_waits or RESTART_WAITS
    )


async def test_a_device_that_cannot_start_leaves_the_work_to_the_others() -> None:
    broken, sound = a_link(1, broken=True), a_link(2)

    async with anyio.create_task_group() as group:
        await start_devices(group, [broken, sound])
        assert (broken.usable, sound.usable) == (False, True)
        group.cancel_scope.cancel()


async def test_a_device_that_is_tried_for_ever_holds_up_no_other() -> None:
    failing, sound = a_link(1, broken=True, restart_waits=(0.0,)), a_link(2)

    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            await start_devices(group, [failing, sound])
            assert (failing.usable, failing.away, sound.away) == (True, math.inf, 0)
            group.cancel_scope.cancel()


async def test_when_no_device_can_start_the_worker_is_told() -> None:
    with pytest.RaisesGroup(DeviceUnusable, flatten_subgroups=True):
        async with anyio.create_task_group() as group:
            await start_devices(group, [a_link(1, broken=True), a_link(2, broken=True)])


async def test_a_job_whose_device_backs_off_is_made_by_another_at_once() -> None:
    away, there = a_link(1, restart_waits=(10_000.0,)), a_link(2)
    job = JobSpec(
        id="job",
        model="shapes-tiny",
        prompt="",
        width=64,
        height=64,
        steps=500,
        seeds=(ImageSeed(value=1),),
        received=monotonic(),
        due=monotonic() + 600,
    )
    maker = JobMaker([away, there], max_rows=4, fell_back=lambda _: None)
    lost: list[int] = []

    def lose(_: float) -> None:
        if not lost and away.pid:
            lost.append(away.pid)
            os.kill(away.pid, signal.SIGKILL)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            await start_devices(group, [away, there])
            await maker.make(job, find_models()["shapes-tiny"], lose)  # replayed on the other device
            following = await maker.make(job, find_models()["shapes-tiny"], lambda _: None)  # placed there, never lost

            assert lost
            assert away.usable
            assert away.view("shapes-tiny", "dummy").away > 9_000
            assert len(following.images) == 1
            group.cancel_scope.cancel()
