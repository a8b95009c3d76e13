"""Customers of a model whose weights are cut in half: before the worker starts, and while it runs.

One rig serves both networks of a local grid, with the backends of the processor. Nobody else is there to run what it
gives back, so a job comes straight back to it. While the model is damaged, jobs wait; once its file is whole again, a
probe finds out, the model is offered again, and whoever waited is answered. An error counts wherever it comes from.

On the Horde a job that is given back is an image that the server counts as dropped, and the worker holds its pops back
for up to five minutes lest it be put into maintenance. Whoever still waits then was told nothing, and is counted apart.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from trt_engines.model import BUILT_IN
from trt_perf.quiet import quiet
from trt_worker.app import Worker, open_worker
from trt_worker.config.schema import Config
from trt_worker.local_grid.requests import HordeRequest, ImageRequest
from trt_worker.local_grid.server import LocalGrid

JOBS = 100
"""Of each of the two runs; every other one comes over the Horde."""

ANSWERED, WAITING = "answered", "waiting"
CONNECTIONS = 8
MODEL = "shapes-tiny"
WEIGHTS = Path("unet/diffusion_pytorch_model.safetensors")
RUN_SECONDS = 120.0
"""Longer than the grid's jobs take, shorter than the worker may hold its pops back."""


def measure() -> dict[str, float]:
    """The figures of both runs."""
    fates: Counter[str] = Counter()
    with quiet():
        for cut_before_start in (True, False):
            fates += anyio.run(damaged, JOBS, cut_before_start, backend_options={"use_uvloop": True})
    return {
        "damaged_model_jobs": float(fates.total()),
        "damaged_model_answered": float(fates[ANSWERED]),
        "damaged_model_waiting": float(fates[WAITING]),
        "damaged_model_errors": float(fates.total() - fates[ANSWERED] - fates[WAITING]),
    }


async def damaged(jobs: int, cut_before_start: bool) -> Counter[str]:
    """Ask for pictures while the weights are cut, mend them, and see what every customer got.

    Args:
        cut_before_start: False: the worker has drawn pictures already, and loses its device process to the cut file.
    """
    fates: Counter[str] = Counter()
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = shutil.copytree(BUILT_IN / MODEL, folder / "models" / MODEL)
        if cut_before_start:
            _cut(model / WEIGHTS)
        async with LocalGrid() as grid, open_worker(_config(grid, folder)) as worker:
            if not cut_before_start:
                await grid.connected(CONNECTIONS)
                await _customer(grid, 0)
                _cut(model / WEIGHTS)
                pid = worker.links[0].pid
                assert pid is not None  # it has just drawn a picture
                os.kill(pid, signal.SIGKILL)  # what it has in memory would serve it on
            with anyio.move_on_after(RUN_SECONDS):
                async with anyio.create_task_group() as customers:

                    async def customer(number: int) -> None:
                        fates[await _customer(grid, number)] += 1

                    for number in range(jobs):
                        customers.start_soon(customer, number)
                    await _until_served(worker, wanted=False)
                    _mend(model / WEIGHTS)
    fates[WAITING] = jobs - fates.total()
    return fates


def _config(grid: LocalGrid, folder: Path) -> Config:
    return Config.model_validate(
        {
            "api_key": grid.key,
            "dreamer_name": "damaged",
            "network": "both",
            "grid_url": grid.worker_url,
            "grid_http_url": grid.url,
            "horde_url": grid.horde_url,
            "grid_connections": CONNECTIONS,
            "models_to_load": [MODEL],
            "cache_home": folder / "models",
            "log_dir": folder / "logs",
            "queue_size": 4,
        }
    )


async def _customer(grid: LocalGrid, number: int) -> str:
    """Ask for a picture. Returns: how it ended."""
    if number % 2:
        own = {"r2": False}  # a worker that says its own name gets no other jobs from a Horde
        asked = await grid.submit_horde(HordeRequest(width=64, height=64, steps=2, seed=str(number), extra=own))
        outcome = await asked.result()
        drawn = outcome.done and not outcome.faulted and all(image.data for image in outcome.images)
        return ANSWERED if drawn else "horde faulted"
    result = await (await grid.submit_grid(ImageRequest(width=64, height=64, steps=2, seed=number))).result()
    return ANSWERED if result.status == 200 else f"grid {result.status}"


async def _until_served(worker: Worker, *, wanted: bool) -> None:
    service = worker.service
    while bool(service.models_served()) is not wanted:
        await service.models_changed()


def _cut(weights: Path) -> None:
    """Keep the first half, in place: whoever has mapped the file has lost the rest."""
    os.truncate(weights, weights.stat().st_size // 2)


def _mend(weights: Path) -> None:
    """Put the whole file there, at once."""
    whole = shutil.copy2(BUILT_IN / MODEL / WEIGHTS, weights.with_suffix(".new"))
    os.replace(whole, weights)
