"""What an operator does: a full-size checkpoint is added, and one picture is drawn of it, by a real worker.

Weights are random, in half precision, in one file as models are published. The worker serves the local grid's Horde on
the processor; its memory and that of everything it starts is sampled every 100 ms. Graphs are exported first, which is
not part of a figure; where they are cached, that takes no time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import anyio
import anyio.abc

from trt_engines.store.files import size_of
from trt_engines.store.place import DEFAULT_STORE
from trt_perf.memory import Peak, watched
from trt_worker.local_grid.requests import HordeRequest
from trt_worker.local_grid.server import LocalGrid
from trt_worker.local_grid.settings import GridSettings

SIDE, STEPS = 512, 2
GIGABYTE = 1e9
PATIENCE_SECONDS = 900.0


def measure() -> dict[str, float]:
    """All figures of the suite."""
    figures: dict[str, float] = {}
    for name, architecture in (("sd15", "stable_diffusion_1"), ("sdxl", "sdxl")):
        with tempfile.TemporaryDirectory(prefix=f"models-{name}-") as scratch:
            folder = Path(scratch)
            checkpoint = folder / f"{name}.safetensors"
            _run("trt_export", "random-checkpoint", architecture, str(checkpoint))
            models = folder / "models"
            _add(checkpoint, models)  # exports what is missing
            _run("trt_export", "models", "remove", name, "--models", str(models))
            began = perf_counter()
            _add(checkpoint, models)
            figures[f"models_add_{name}_s"] = perf_counter() - began
            figures[f"models_add_{name}_mb"] = size_of(models) / 1e6
            peak = anyio.run(_draw, name, models, folder / "logs", backend_options={"use_uvloop": True})
            figures[f"served_{name}_peak_gb"] = peak.own / GIGABYTE
            figures[f"served_{name}_mapped_gb"] = peak.mapped / GIGABYTE
    return figures


def _add(checkpoint: Path, models: Path) -> None:
    _run("trt_export", "models", "add", str(checkpoint), "--models", str(models))


def _run(module: str, *arguments: str) -> None:
    """A command of ours, whose output is shown where it fails."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")


async def _draw(name: str, models: Path, logs: Path) -> Peak:
    """One picture from a real worker. Returns: the peak of its memory, from its start to the picture's arrival."""
    settings = GridSettings()
    known = settings.horde.known_models | {name}
    settings = replace(settings, horde=replace(settings.horde, ttl_seconds=PATIENCE_SECONDS, known_models=known))
    async with LocalGrid(settings) as grid:
        environment = os.environ | {
            "AIWORKER_API_KEY": grid.key,
            "AIWORKER_DREAMER_NAME": "bench",
            "AIWORKER_NETWORK": "horde",
            "AIWORKER_HORDE_URL": grid.horde_url,
            "AIWORKER_BACKENDS": "onnxruntime",
            "AIWORKER_MAX_BATCH": "1",
            "AIWORKER_MAX_POWER": "8",
            "AIWORKER_CACHE_HOME": str(models),
            "AIWORKER_MODELS_TO_LOAD": name,
            "AIWORKER_LOG_DIR": str(logs),
            "AIWORKER_LIMITED_CONSOLE_MESSAGES": "true",
            "TRT_WORKER_ENGINES": str(DEFAULT_STORE),
        }
        command = [sys.executable, "-m", "trt_worker", "run", "-e"]
        worker = await anyio.open_process(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        async with worker:
            with watched(worker.pid) as peak, anyio.fail_after(PATIENCE_SECONDS):
                asked = await grid.submit_horde(
                    HordeRequest(
                        models=(name,),
                        prompt="a red circle on a blue ground",
                        width=SIDE,
                        height=SIDE,
                        steps=STEPS,
                        sampler_name="k_euler",
                        cfg_scale=5.0,
                        seed="1",
                        extra={"r2": False},
                    )
                )
                async with anyio.create_task_group() as waiting:
                    waiting.start_soon(_until_it_ends, worker, logs)
                    result = await asked.result()
                    waiting.cancel_scope.cancel()
            worker.send_signal(signal.SIGTERM)
            await worker.wait()
    if not result.done or result.faulted or len(result.images) != 1:
        raise RuntimeError(f"{name} gave no picture: {result}; the worker's log is in {logs}")
    return peak


async def _until_it_ends(worker: anyio.abc.Process, logs: Path) -> None:
    """Raises: RuntimeError: the worker has ended."""
    status = await worker.wait()
    log = logs / "trace.log"
    raise RuntimeError(f"the worker ended with {status}: {log.read_text() if log.exists() else 'it wrote no log'}")
