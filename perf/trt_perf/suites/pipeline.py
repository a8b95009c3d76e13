"""The image pipeline against diffusers: the same weights, prompts, steps, size and threads, in one run."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from time import monotonic, perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.backends.onnxruntime import onnxruntime_backend
from trt_engines.model import Model, find_models
from trt_engines.residency import Memory
from trt_export.shapes_tiny.check import judge
from trt_export.shapes_tiny.scenes import caption, held_out_scenes
from trt_worker import frames
from trt_worker.device.loop import DeviceLoop
from trt_worker.job import ImageSeed, JobSpec

ROWS = 4
STEPS = 20
GUIDANCE = 5.0
SIDE = 256
ROUNDS = 3
PROMPTS = (
    "a red circle",
    "a blue star on a black background",
    "two green squares",
    "a large yellow ring on a grey background",
)

Pictures = dict[tuple[str, int], NDArray[np.uint8]]


def measure() -> dict[str, float]:
    """All figures of the suite."""
    threads = len(os.sched_getaffinity(0))
    model = find_models()["shapes-tiny"]
    return {
        **_against_diffusers(model, threads),
        "batched_max_pixel_diff": _batched_difference(model, threads),
        "shapes_correct": _shapes_correct(model, threads),
    }


class Bench:
    """A device loop in this process, its pictures and totals."""

    def __init__(self, model: Model, threads: int, rows: int = ROWS) -> None:
        self.pictures: Pictures = {}
        self.totals = frames.Totals(calls=0, rows=0, engine_seconds=0.0, loop_seconds=0.0, megapixel_steps=0.0)
        self.failures: list[str] = []
        backend = onnxruntime_backend(threads)
        self._loop = DeviceLoop(
            {model.name: model},
            {backend.name: backend},
            max_rows=rows,
            budgets=dict.fromkeys(Memory, 2**32),
            emit=self._emit,
        )

    def run(self, jobs: Sequence[frames.Run]) -> Pictures:
        """Take all jobs at once and step until they are done. Raises: RuntimeError: a job failed."""
        self.pictures = {}
        for job in jobs:
            self._loop.take(job, b"")
        while self._loop.busy:
            self._loop.step()
        if self.failures:
            raise RuntimeError(self.failures[0])
        return self.pictures

    def _emit(self, header: frames.FromDevice, body: NDArray[np.uint8] | None) -> None:
        if isinstance(header, frames.Pixels) and body is not None:
            self.pictures[header.id, header.index] = body.copy()
        elif isinstance(header, frames.Totals):
            self.totals = header
        elif isinstance(header, frames.Failed):
            self.failures.append(header.message)


def a_run(number: int, prompt: str, **changes: Any) -> frames.Run:
    """A job for the loop; what is not said is what the comparison with diffusers uses."""
    settings: dict[str, Any] = {
        "id": str(number),
        "model": "shapes-tiny",
        "backend": "onnxruntime",
        "prompt": prompt,
        "width": SIDE,
        "height": SIDE,
        "steps": STEPS,
        "guidance": GUIDANCE,
        "sampler": "euler",
        "scheduler": "karras",
        "seeds": (ImageSeed(value=number),),
        "received": monotonic(),
        "due": monotonic() + 3600,
    }
    fields = settings | changes
    return frames.Run(backend=fields.pop("backend"), job=JobSpec(**fields))


def _against_diffusers(model: Model, threads: int) -> dict[str, float]:
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    torch.set_num_threads(threads)
    scheduler = EulerDiscreteScheduler.from_pretrained(model.folder / "scheduler", use_karras_sigmas=True)
    pipeline = StableDiffusionPipeline.from_pretrained(
        model.folder, scheduler=scheduler, torch_dtype=torch.float32, local_files_only=True, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    bench = Bench(model, threads)

    def diffusers(prompts: list[str]) -> None:
        generators = [torch.Generator().manual_seed(number) for number in range(len(prompts))]
        pipeline(
            prompts,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            width=SIDE,
            height=SIDE,
            generator=generators,
            output_type="np",
        )

    def ours() -> None:
        bench.run([a_run(number, prompt) for number, prompt in enumerate(PROMPTS)])

    def one_after_another() -> None:
        for prompt in PROMPTS:
            diffusers([prompt])

    contenders: tuple[Callable[[], None], ...] = (ours, one_after_another, lambda: diffusers(list(PROMPTS)))
    for contender in contenders:
        contender()  # engines, allocators and caches warm for everybody
    before = bench.totals
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in range(ROUNDS):
        for number, contender in enumerate(contenders):
            began = perf_counter()
            contender()
            seconds[number].append(perf_counter() - began)
    own, sequential, batched = (statistics.median(times) for times in seconds)
    engine = bench.totals.engine_seconds - before.engine_seconds
    loop = bench.totals.loop_seconds - before.loop_seconds
    work = SIDE * SIDE / 1e6 * STEPS * len(PROMPTS)
    return {
        "pipeline_images_per_s": len(PROMPTS) / own,
        "pipeline_mps_s": work / own,
        "diffusers_sequential_images_per_s": len(PROMPTS) / sequential,
        "diffusers_batched_images_per_s": len(PROMPTS) / batched,
        "pipeline_vs_diffusers": min(sequential, batched) / own,
        "pipeline_vs_diffusers_sequential": sequential / own,
        "loop_overhead": 1 - engine / loop,
    }


def _batched_difference(model: Model, threads: int) -> float:
    """Largest difference of any pixel between eight different jobs in shared batches and each of them alone."""
    samplers = ("euler", "dpmpp_2m", "euler_ancestral", "heun", "dpmpp_sde", "lcm", "res_multistep", "dpm_2")
    schedulers = ("karras", "normal", "simple", "exponential", "karras", "sgm_uniform", "beta", "ddim_uniform")
    jobs = [
        a_run(
            number,
            PROMPTS[number % len(PROMPTS)],
            width=128,
            height=128,
            steps=6 + number,
            guidance=1.0 + number % 4 * 1.5,
            sampler=sampler,
            scheduler=scheduler,
        )
        for number, (sampler, scheduler) in enumerate(zip(samplers, schedulers, strict=True))
    ]
    together = dict(Bench(model, threads, rows=8).run(jobs))
    bench = Bench(model, threads, rows=1)
    worst = 0
    for job in jobs:
        for key, alone in bench.run([job]).items():
            worst = max(worst, int(np.abs(alone.astype(int) - together[key].astype(int)).max()))
    return float(worst)


def _shapes_correct(model: Model, threads: int) -> float:
    """Held-out captions that are drawn right, of 100."""
    scenes = held_out_scenes()
    jobs = [
        a_run(number, caption(scene), width=model.native_width, height=model.native_height, sampler="dpmpp_2m")
        for number, scene in enumerate(scenes)
    ]
    pictures = Bench(model, threads, rows=8).run(jobs)
    verdicts = [
        judge(pictures[str(number), 0], shape=scene.shape, colour=scene.colour) for number, scene in enumerate(scenes)
    ]
    return float(sum(verdict.right for verdict in verdicts))
