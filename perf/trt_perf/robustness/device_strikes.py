"""Every point of the device process thrown at, with three jobs aboard. For `unexpected`, which compiles them first."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.backends.rowwise import rowwise_backend
from trt_engines.errors import OutOfMemory
from trt_engines.model import find_models
from trt_engines.residency import Memory
from trt_perf.robustness import points
from trt_perf.robustness.customers import SIDE, a_source
from trt_worker import frames
from trt_worker.device.loop import DeviceLoop
from trt_worker.job import ImageSeed, JobSpec

Picture = NDArray[np.uint8]


def device_half(notes: list[str]) -> int:
    """Throw at each of its points, with three jobs aboard. Returns: others that were not made, or made otherwise."""
    alone = {run.job.id: _device_pictures([run])[run.job.id] for run in _device_runs()}
    lost = 0
    for number in list(points.numbers(device=True)):
        points.armed.clear()
        text = str(points.points[number])
        for provoked, (where, errors) in DEVICE_PROVOKED.items():
            if re.search(provoked, text):
                points.arm(where, [error() for error in errors])
        points.armed.setdefault(number, []).append(points.a_surprise())
        made = _device_pictures(_device_runs())
        wrong = [job for job, picture in alone.items() if job not in made or not np.array_equal(made[job], picture)]
        if len(wrong) > 1:
            lost += len(wrong) - 1
            notes.append(f"{text}: {', '.join(wrong)} not made")
    points.armed.clear()
    return lost


def _full() -> Exception:
    return OutOfMemory("thrown so that room is made")


DEVICE_PROVOKED: dict[str, tuple[str, tuple[Callable[[], Exception], ...]]] = {
    r"_step_alone:\d+ stage batch\.step": (r"_put_step:\d+ stage batch\.step", (points.a_surprise,)),
    r"batch\.release_engines": (r"stage decoder\.begin", (_full, _full)),
    r"smaller_tiles": (r"stage decoder\.begin", (_full, _full, _full, _full)),
}
"""What has to be thrown first, where, so that a point is passed at all."""


def _device_runs() -> list[frames.Run]:
    source = {"strength": 0.5}
    return [
        _device_run("first", sampler="euler_ancestral", guidance=4.0),
        _device_run("second", sampler="dpmpp_2m_sde", guidance=1.0),
        _device_run("third", sampler="heun", guidance=4.0, **source),
    ]


def _device_run(job: str, **changes: Any) -> frames.Run:
    settings: dict[str, Any] = {
        "id": job,
        "model": "shapes-tiny",
        "backend": "rowwise",
        "prompt": f"the {job} circle",
        "negative_prompt": f"no {job} square",
        "width": SIDE,
        "height": SIDE,
        "steps": 3,
        "scheduler": "karras",
        "seeds": (ImageSeed(value=len(job)),),
        "received": monotonic(),
        "due": monotonic() + 600,
    }
    fields = settings | changes
    return frames.Run(backend=fields.pop("backend"), job=JobSpec(**fields))


def _device_pictures(runs: Sequence[frames.Run]) -> dict[str, Picture]:
    pictures: dict[str, Picture] = {}

    def emit(header: frames.FromDevice, body: Picture | None) -> None:
        if isinstance(header, frames.Pixels) and body is not None:
            pictures[header.id] = body.copy()

    backend = rowwise_backend()
    loop = DeviceLoop(
        {"shapes-tiny": find_models()["shapes-tiny"]},
        {backend.name: backend},
        max_rows=4,
        budgets=dict.fromkeys(Memory, 2**31),
        emit=emit,
    )
    for run in runs:
        loop.take(run, a_source() if run.job.strength < 1 else b"")
    while loop.busy:
        loop.step()
    return pictures
