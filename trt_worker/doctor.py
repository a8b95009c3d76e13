"""What this rig has and what of it works: facts only, each with the command that mends it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from trt_engines.backends.ladder import make_backends
from trt_engines.errors import EngineError, EngineRefused
from trt_engines.model import find_models
from trt_worker.config.keys import without_settings
from trt_worker.config.load import load_config
from trt_worker.config.schema import Config
from trt_worker.errors import ConfigError
from trt_worker.job import ImageSeed, JobSpec
from trt_worker.plan.route import route

_LIBRARIES = ("onnxruntime-gpu", "torch", "diffusers", "onnx", "tensorrt", "tensorrt-rtx", "cuda-python", "polygraphy")
_LEAST_FREE_GB = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    mark: str  # "ok", "note" or "fault"
    what: str
    text: str
    mend: str = ""


def examine(config_path: Path, home: Path = Path()) -> list[Finding]:
    """Look at machine, libraries, cards, configuration and models; runs no engine."""
    return [*_machine(), *_cards(), *_libraries(), *_configured(config_path, home)]


def _machine() -> Iterator[Finding]:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    cores = len(os.sched_getaffinity(0))
    yield Finding(mark="ok", what="cores", text=f"{cores} usable")
    text = f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free, swap {swap.total / 1e9:.1f} GB"
    yield Finding(mark="ok", what="memory", text=text)
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < _LEAST_FREE_GB:
        yield Finding(mark="fault", what="disk", text=f"{free:.1f} GB free here", mend="df -h; free some space")
    else:
        yield Finding(mark="ok", what="disk", text=f"{free:.0f} GB free here")


def _cards() -> Iterator[Finding]:
    query = shutil.which("nvidia-smi")
    if query is None:
        yield Finding(mark="note", what="cards", text="no NVIDIA driver: jobs run on the processor")
        return
    fields = "name,compute_cap,memory.total,driver_version"
    answer = subprocess.run(
        [query, f"--query-gpu={fields}", "--format=csv,noheader"],
        env=without_settings(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    if answer.returncode:
        yield Finding(
            mark="fault", what="cards", text=answer.stdout.strip() or answer.stderr.strip(), mend="nvidia-smi"
        )
        return
    for line in answer.stdout.strip().splitlines():
        text = f"{line}; this version runs no engines on cards yet, jobs run on the processor"
        yield Finding(mark="note", what="card", text=text)


def _libraries() -> Iterator[Finding]:
    for name in _LIBRARIES:
        try:
            yield Finding(mark="ok", what=name, text=version(name))
        except PackageNotFoundError:
            yield Finding(mark="note", what=name, text="not installed")


def _configured(path: Path, home: Path) -> Iterator[Finding]:
    try:
        loaded = load_config(path, environ=os.environ, home=home)
    except ConfigError as error:
        mend = "cp bridgeData_template.yaml bridgeData.yaml" if not path.exists() else ""
        yield Finding(mark="fault", what="config", text=str(error).splitlines()[0], mend=mend)
        config = Config().anchored(home)
    else:
        config = loaded.config
        yield Finding(mark="ok", what="config", text=f"{path}, for {' and '.join(sorted(config.networks))}")
        for note in loaded.notes:
            yield Finding(mark="note", what="config", text=str(note))
    try:
        models = find_models((config.cache_home,))
    except EngineError as error:
        yield Finding(mark="fault", what="models", text=str(error))
        return
    ladder = make_backends(config.backends)
    for model in models.values():
        job = JobSpec(
            id="doctor",
            model=model.name,
            prompt="",
            width=model.native_width,
            height=model.native_height,
            steps=1,
            seeds=(ImageSeed(value=0),),
            received=0.0,
            due=0.0,
        )
        try:
            plan = route(job, model, ladder, max_rows=config.max_batch)
        except EngineRefused as error:
            yield Finding(mark="fault", what="model", text=str(error))
        else:
            yield Finding(mark="ok", what="model", text=f"{model.name} runs on {plan.backend}: {plan.reason}")
