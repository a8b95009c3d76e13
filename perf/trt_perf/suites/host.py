"""The host around a free engine: jobs per second, memory, start, and the event loop while images are encoded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from time import perf_counter

import anyio
import numpy as np
import psutil

from trt_worker.encode.encoder import Encoder
from trt_worker.job import ImageFormat
from trt_worker.local_grid.requests import ImageRequest
from trt_worker.local_grid.server import LocalGrid

JOBS = 900
WARM_UP = 150
CONNECTIONS = 16
ENCODES = 24
TICK_SECONDS = 0.005
MEGABYTE = 1e6


def measure() -> dict[str, float]:
    """All figures of the suite."""
    options = {"use_uvloop": True}
    return anyio.run(_host, backend_options=options) | anyio.run(_loop_lag, backend_options=options)


async def _host() -> dict[str, float]:
    """A real worker process on a local grid whose jobs cost it nothing but the way through."""
    async with LocalGrid() as grid:
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {
                "AIWORKER_API_KEY": grid.key,
                "AIWORKER_DREAMER_NAME": "bench",
                "AIWORKER_NETWORK": "grid",
                "AIWORKER_GRID_URL": grid.worker_url,
                "AIWORKER_GRID_HTTP_URL": grid.url,
                "AIWORKER_GRID_CONNECTIONS": str(CONNECTIONS),
                "AIWORKER_BACKENDS": "dummy",
                "AIWORKER_MAX_BATCH": "8",
                "AIWORKER_MODELS_TO_LOAD": "shapes-tiny",
                "AIWORKER_LOG_DIR": folder,
                "AIWORKER_LIMITED_CONSOLE_MESSAGES": "true",
            }
            began = perf_counter()
            command = [sys.executable, "-m", "trt_worker", "run", "-e"]
            worker = await anyio.open_process(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            async with worker:
                with anyio.fail_after(30):
                    await grid.connected(1)
                ready = perf_counter() - began
                with anyio.fail_after(30):
                    await grid.connected(CONNECTIONS)
                await _ask(grid, WARM_UP)
                began = perf_counter()
                await _ask(grid, JOBS)
                seconds = perf_counter() - began
                memory = psutil.Process(worker.pid).memory_info().rss / MEGABYTE
                worker.send_signal(signal.SIGTERM)
                await worker.wait()
    return {"host_jobs_per_s": JOBS / seconds, "supervisor_rss_mb": memory, "supervisor_ready_s": ready}


async def _ask(grid: LocalGrid, jobs: int) -> None:
    handles = [
        await grid.submit_grid(ImageRequest(width=64, height=64, steps=4, cfg=1.0, sampler="euler", seed=number))
        for number in range(jobs)
    ]
    for handle in handles:
        result = await handle.result()
        if result.status != 200:
            raise RuntimeError(f"job {result.job_id} ended with {result.status}: {result.message}")


async def _loop_lag() -> dict[str, float]:
    """How late a timer is while 1024x1024 pictures are compressed in the pool."""
    random = np.random.default_rng(0)
    picture = np.repeat(np.repeat(random.integers(0, 256, (128, 128, 3), dtype=np.uint8), 8, axis=0), 8, axis=1)
    encoder = Encoder()
    late: list[float] = []

    async def tick() -> None:
        while True:
            began = perf_counter()
            await anyio.sleep(TICK_SECONDS)
            late.append(perf_counter() - began - TICK_SECONDS)

    async def encode(number: int) -> None:
        await encoder.encode(picture, ImageFormat.WEBP, index=number, seed=number)

    async with anyio.create_task_group() as both:
        both.start_soon(tick)
        async with anyio.create_task_group() as images:
            for number in range(ENCODES):
                images.start_soon(encode, number)
        both.cancel_scope.cancel()
    p50, p99 = np.percentile(np.array(late) * 1000, [50, 99])
    return {"loop_lag_p50_ms": float(p50), "loop_lag_p99_ms": float(p99)}
