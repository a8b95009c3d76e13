"""What every device does, on those that need no card."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trt_engines.devices.device import HostComputingDevice
from trt_engines.devices.memory import ALIGNMENT, Place


def test_what_is_uploaded_changed_and_downloaded_is_there_after_waiting(
    device: HostComputingDevice, floats: Any
) -> None:
    kit, stream = floats(device), device.create_stream("work")
    source, target = kit.host(1, 2, 3, 4), kit.host()
    first, second = kit.device_memory(), kit.device_memory()

    device.copy(first, source, stream)
    device.copy(second, first, stream)
    kit.add(second, first, stream)
    device.copy(target, second, stream)
    device.synchronize(stream)

    assert kit.read(target) == [1.5, 3, 4.5, 6]


def test_an_event_orders_two_streams(device: HostComputingDevice, floats: Any) -> None:
    kit = floats(device)
    upload, download, ready = device.create_stream("up"), device.create_stream("down"), device.create_event("ready")
    source, target, middle = kit.host(1, 2, 3, 4), kit.host(), kit.device_memory()

    device.copy(middle, source, upload)
    device.record(ready, upload)
    device.wait(download, ready)
    device.copy(target, middle, download)
    device.synchronize(download)

    assert kit.read(target) == [1, 2, 3, 4]


def test_a_graph_runs_only_when_launched_and_reads_its_memory_anew(device: HostComputingDevice, floats: Any) -> None:
    kit, stream = floats(device), device.create_stream("work")
    total, source, target = kit.device_memory(), kit.host(1, 1, 1, 1), kit.host()
    addend = kit.device_memory()
    device.fill(total, 0, stream)
    device.copy(addend, source, stream)

    graph = device.capture(stream, lambda: kit.add(total, addend, stream), "add")
    for _ in range(3):
        device.launch_graph(graph, stream)
    device.copy(target, total, stream)
    device.synchronize(stream)

    assert kit.read(target) == [1.75] * 4
    device.free(graph)


def test_memory_is_aligned_as_engines_need_it_and_comes_back(device: HostComputingDevice) -> None:
    blocks = [device.allocate(size) for size in (1, 300, 257)]

    assert [block.address % ALIGNMENT for block in blocks] == [0, 0, 0]
    for block in blocks:
        device.free(block)


def test_what_the_host_is_shown_cannot_be_written_unless_it_asked(device: HostComputingDevice, floats: Any) -> None:
    buffer = floats(device).host(1, 2, 3, 4)

    shown = device.view(buffer, np.dtype(np.float32), (4,))

    with pytest.raises(ValueError, match="read-only"):
        shown[0] = 5


def test_device_memory_is_not_shown_to_the_host_and_parts_are_not_freed(device: HostComputingDevice) -> None:
    block = device.allocate(16)

    with pytest.raises(ValueError, match="only host memory"):
        device.view(block, np.dtype(np.uint8), (16,))
    with pytest.raises(ValueError, match="part"):
        device.free(block.part(0, 8))
    with pytest.raises(ValueError, match="not inside"):
        block.part(8, 9)
    device.free(block)


def test_copies_need_equal_sizes_and_a_device_at_one_end(device: HostComputingDevice) -> None:
    stream = device.create_stream("work")
    hosts = [device.allocate(8, Place.HOST) for _ in range(2)]

    with pytest.raises(ValueError, match="8 bytes cannot be copied into 4"):
        device.copy(device.allocate(4), hosts[0], stream)
    with pytest.raises(ValueError, match="host memory to host memory"):
        device.copy(hosts[1], hosts[0], stream)


def test_the_time_between_two_events_is_told_once_they_are_done(device: HostComputingDevice, floats: Any) -> None:
    kit, stream = floats(device), device.create_stream("work")
    block = kit.device_memory()
    began, ended = (device.create_event(label, timed=True) for label in ("began", "ended"))

    device.record(began, stream)
    device.fill(block, 0, stream)
    device.record(ended, stream)
    device.synchronize(ended)

    assert device.elapsed(began, ended) >= 0
    assert device.elapsed(began, began) == 0
