"""Several devices in one rig, with real processes."""

from __future__ import annotations

import anyio
import pytest

from trt_worker.app import start_devices
from trt_worker.errors import DeviceUnusable
from trt_worker.runtime import frames
from trt_worker.runtime.device_link import DeviceLink

pytestmark = pytest.mark.anyio


def a_link(index: int, *, broken: bool = False) -> DeviceLink:
    """A device, or one whose Python finds no library and ends at once."""
    configure = frames.Configure(
        index=index, backends=("null",), threads=1, max_rows=4, model_folders=(), log_directory=None, verbosity=0
    )
    environment = {"PYTHONHOME": "/dev/null"} if broken else {}
    return DeviceLink(configure, silent_seconds=60.0, restart=False, environment=environment)


async def test_a_device_that_cannot_start_leaves_the_work_to_the_others() -> None:
    broken, sound = a_link(1, broken=True), a_link(2)

    async with anyio.create_task_group() as group:
        await start_devices(group, [broken, sound])
        assert (broken.usable, sound.usable) == (False, True)
        group.cancel_scope.cancel()


async def test_when_no_device_can_start_the_worker_is_told() -> None:
    with pytest.RaisesGroup(DeviceUnusable, flatten_subgroups=True):
        async with anyio.create_task_group() as group:
            await start_devices(group, [a_link(1, broken=True), a_link(2, broken=True)])
