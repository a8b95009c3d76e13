"""The device: its scheduling on the simulated clock of a card, its cost model, its host time, its start, its faults.

Of the simulated figures, `sim4090_batching_gain` and the waits count all stages of a job: being asked for, text
encoding, steps, decoding, copies, encoding, uploading, acknowledgement. One job at a time does them in sequence; the
worker overlaps those of different jobs. So this gain is that of sharing steps *and* of overlapping, and it grows as the
line gets slower: `sim4090_batching_gain_100mbit` is the same on a fast one. `sim4090_card_gain` counts the stages on
the card alone (text encoding, steps, decoding, copies), as if all others took no time for either: it is what sharing
steps and filling the card's idle moments give.
The check is no stage of either: its cost is not known yet.

What happens on the card is asked for by the worker's own `DeviceLoop`, of a `SimulatedDevice` that computes nothing and
keeps the time of the cost model; so is what a job takes alone. What `sim4090_batching_gain`, 1.310, hangs on:
* that two engines fill each other's idle moments as the model says, which no card has confirmed. With one denoising
  stream instead of two it is 1.20;
* the seed of the trace: with three others it is 1.29, 1.31 and 1.34. Between the first minute, in which work has yet to
  pile up, and the last the card is 99 % busy or more: at these costs a better schedule can gain little, at most 1.34;
* hardly on the jobs held at a time: 1.305 with 8, 1.308 with 64.

Of the host's time, `step_host_us` is a step of the loop on a device that does nothing, and `step_cpu_us` the same on
the processor, whose kernels are NumPy's; the network is free on both.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from time import monotonic, perf_counter
from typing import Any

import numpy as np

from trt_engines.backend import EngineBackend
from trt_engines.backends.dummy import dummy_backend
from trt_engines.costs.hardware import hardware
from trt_engines.costs.roofline import CONSTANTS
from trt_engines.devices.cpu import CpuDevice
from trt_engines.model import find_models
from trt_engines.residency import Memory
from trt_perf.cost_fit import CHECKED, FITTED, Fit
from trt_perf.faults import fault_figures
from trt_perf.idle_device import IdleDevice
from trt_perf.published import AITEMPLATE
from trt_perf.schedules import schedule_figures
from trt_perf.simulation.costs import CardCosts
from trt_perf.simulation.host import MEGABIT, NO_HOST, Host
from trt_perf.simulation.run import CardAlone, Outcome, Rig, SharedOutcome, one_at_a_time
from trt_perf.simulation.trace import Job, arriving, trace
from trt_worker import frames
from trt_worker.device.loop import DeviceLoop
from trt_worker.job import ImageSeed, JobSpec

CARD = "RTX 4090"

LOAD = 2.0
"""Work that arrives, over what one job at a time gets done: neither way is ever idle, so throughput is capacity."""

LIGHT_LOAD = 0.8
"""The same where there is time to breathe; its waits are mostly the jobs' own work, the longest of which is 20 s."""

HELD = 32
"""Jobs that are taken off the network and not acknowledged, at a time."""

FAST_UPLINK = 100 * MEGABIT

ROWS = 8
STEPS = 200
SAMPLER, ANCESTRAL = "euler", "euler_ancestral"

MODEL = "shapes-tiny"

_IMPORTS = """
import sys
from trt_engines.backends.onnxruntime import onnxruntime_backend
from trt_perf.suites.device import bench_loop
loop = bench_loop(onnxruntime_backend(1), rows=1, steps=2, side=64)
while loop.busy:
    loop.step()
print(int("torch" in sys.modules))
"""


def measure() -> dict[str, float]:
    """All figures of the suite."""
    return {
        **_simulated(),
        **_cost_model(),
        "step_host_us": _step_us(IdleDevice(), SAMPLER),
        "step_host_ancestral_us": _step_us(IdleDevice(), ANCESTRAL),
        "step_cpu_us": _step_us(CpuDevice(), SAMPLER),
        "step_cpu_ancestral_us": _step_us(CpuDevice(), ANCESTRAL),
        "fast_path_imports_torch": _imports_torch(),
        "device_first_step_s": first_step_seconds(),
        **schedule_figures(),
        **fault_figures(),
    }


def _simulated() -> dict[str, float]:
    """The trace of `simulation.trace`, shared and one at a time; both have all networks resident.

    `sim4090_card_gain_bound` is a job's seconds alone on the card over those in which it keeps the card busy: what
    filling its idle moments can give. At a megapixel a step leaves few of them. Sharing a step also reads the weights
    once for several images, which is not in it.
    """
    jobs, host = trace(), Host()
    card = _Card()
    shared, alone = card.both(jobs, host, LOAD)
    light, light_alone = card.both(jobs, host, LIGHT_LOAD)
    on_card, on_card_alone = card.both(jobs, NO_HOST, LOAD)
    fast, fast_alone = card.both(jobs, Host(uplink=FAST_UPLINK), LOAD)
    own = [card.alone.of(job) for job in jobs]
    return {
        "sim4090_batching_gain": alone.seconds / shared.seconds,
        "sim4090_batching_gain_100mbit": fast_alone.seconds / fast.seconds,
        "sim4090_card_gain": on_card_alone.seconds / on_card.seconds,
        "sim4090_card_gain_bound": sum(one.seconds for one in own) / sum(one.busy for one in own),
        "sim4090_p99_wait_ratio": _p99(shared) / statistics.median(alone.waits),
        "sim4090_light_p99_wait_ratio": _p99(light) / statistics.median(light_alone.waits),
        "sim4090_light_p99_wait_ratio_alone": _p99(light_alone) / statistics.median(light_alone.waits),
        "sim4090_mean_rows": shared.mean_rows,
        "sim4090_mps_s": sum(job.megapixel_steps for job in jobs) / shared.seconds,
    }


class _Card:
    """The card of the figures."""

    def __init__(self) -> None:
        self._hardware = hardware(CARD)
        self._costs = CardCosts(self._hardware)
        self.alone = CardAlone(self._hardware, self._costs)

    def both(self, jobs: Sequence[Job], host: Host, load: float) -> tuple[SharedOutcome, Outcome]:
        """A trace shared and one at a time. Args: load: work that arrives, over what one job at a time gets done."""
        own = statistics.fmean(self.alone.of(job).seconds + host.seconds_alone(job) for job in jobs)
        arrivals = arriving(jobs, own / load)
        rig = Rig(self._hardware, self._costs, host, held=HELD)
        return rig.run(arrivals), one_at_a_time(arrivals, self.alone, host)


def _p99(outcome: Outcome) -> float:
    return float(np.percentile(outcome.waits, 99))


def _cost_model() -> dict[str, float]:
    """Worst relative errors against published speeds: of all, of those the constants were fitted on, of the others."""
    stored = Fit(constants=CONSTANTS, aitemplate=AITEMPLATE.slowness)
    fitted, checked = (max(map(abs, stored.errors(rows).values())) for rows in (FITTED, CHECKED))
    return {
        "costmodel_worst_error": max(fitted, checked),
        "costmodel_fitted_error": fitted,
        "costmodel_checked_error": checked,
    }


def bench_loop(backend: EngineBackend, *, rows: int, steps: int, side: int, sampler: str = SAMPLER) -> DeviceLoop:
    """A device loop in this process with `rows` jobs of one image each."""
    loop = DeviceLoop(
        find_models(),
        {backend.name: backend},
        max_rows=rows,
        budgets=dict.fromkeys(Memory, 2**32),
        emit=lambda *_: None,
    )
    for number in range(rows):
        loop.take(_a_run(str(number), backend=backend.name, width=side, height=side, steps=steps, sampler=sampler), b"")
    return loop


def _step_us(device: CpuDevice, sampler: str) -> float:
    """Median time of a step at 8 rows, guidance on, at the model's own size, when the network is free."""
    side = find_models()[MODEL].native_width
    loop = bench_loop(dummy_backend(device), rows=ROWS, steps=STEPS, side=side, sampler=sampler)
    loop.step()  # makes engines and lays out the batch
    seconds = []
    for _ in range(STEPS - 2):
        began = perf_counter()
        loop.step()
        seconds.append(perf_counter() - began)
    return statistics.median(seconds) * 1e6


def _imports_torch() -> float:
    """Whether a process that makes a picture on the fast path loads PyTorch: 0 or 1."""
    ran = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=True)
    return float(ran.stdout)


def first_step_seconds() -> float:
    """From the start of a device process on the CPU to its first finished step; its first sign of progress says so.

    Raises: RuntimeError: it failed instead.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        began = perf_counter()
        command = [sys.executable, "-m", "trt_worker.device.process", str(theirs.fileno()), str(os.getpid())]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
            theirs.close()
            for header in (_configure(), _a_run("first", backend="onnxruntime", width=64, height=64, steps=8)):
                ours.sendall(frames.pack(header))
            stream = ours.makefile("rb")
            while True:
                header_bytes, body_bytes = frames.sizes(stream.read(frames.PREFIX.size))
                said = frames.unpack_from_device(stream.read(header_bytes))
                stream.read(body_bytes)
                if isinstance(said, frames.Failed):
                    raise RuntimeError(f"the device failed before its first step: {said.message}")
                if isinstance(said, frames.Progress):
                    seconds = perf_counter() - began
                    process.kill()
                    return seconds


def _configure() -> frames.Configure:
    return frames.Configure(
        index=0,
        backends=("onnxruntime",),
        threads=2,
        max_rows=4,
        memory=2**32,
        machine_memory=2**32,
        models=tuple(find_models().values()),
        log_directory=None,
        verbosity=0,
    )


def _a_run(job: str, **changes: Any) -> frames.Run:
    settings: dict[str, Any] = {
        "id": job,
        "model": MODEL,
        "prompt": "a red circle",
        "guidance": 5.0,
        "sampler": SAMPLER,
        "scheduler": "karras",
        "seeds": (ImageSeed(value=1),),
        "received": monotonic(),
        "due": monotonic() + 3600,
    }
    fields = settings | changes
    return frames.Run(backend=fields.pop("backend"), job=JobSpec(**fields))
