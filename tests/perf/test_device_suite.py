"""The device suite: what it starts really starts, and what it promises has a target."""

from __future__ import annotations

import pytest

from trt_engines.backends.dummy import dummy_backend
from trt_engines.devices.cpu import CpuDevice
from trt_perf.idle_device import IdleDevice
from trt_perf.suites.device import bench_loop, first_step_seconds
from trt_perf.targets import TARGETS


def test_a_device_process_on_the_cpu_says_when_its_first_step_is_done() -> None:
    assert first_step_seconds() > 0


@pytest.mark.parametrize("device", [CpuDevice, IdleDevice])
def test_the_bench_loop_shares_one_batch_and_ends(device: type[CpuDevice]) -> None:
    loop = bench_loop(dummy_backend(device()), rows=8, steps=3, side=64)
    steps = 0
    while loop.busy:
        loop.step()
        steps += 1

    assert steps == 3


def test_the_figures_of_the_issue_have_their_targets() -> None:
    simulated = {"sim4090_batching_gain", "sim4090_p99_wait_ratio", "costmodel_worst_error", "step_host_us"}
    contained = {"faults_answered_once", "faults_wrong_images", "schedules_run", "schedules_hazards"}
    assert simulated | contained <= set(TARGETS)
