"""Processor, memory, disk and installed libraries."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from trt_engines.machine_memory import machine_memory
from trt_worker.doctor.finding import Finding

LEAST_FREE_GB = 5.0
"""Below this neither a model nor its engines find room."""

LEAST_BUILD_GB = 16.0
"""Memory and swap together that building the engines of SDXL takes."""

LIBRARIES = {
    "onnxruntime-gpu": "runs every model without built engines",
    "torch": "the fallback of cards without engines",
    "diffusers": "the fallback of cards without engines",
    "tensorrt-rtx": "builds and runs engines for most cards",
    "tensorrt": "builds engines on cards that TensorRT-RTX does not serve",
    "cuda-python": "runs engines on a card",
    "onnx": "builds engines",
    "polygraphy": "builds engines",
}

PACKAGES = {"tensorrt": "tensorrt-cu13 --extra-index-url https://pypi.nvidia.com"}
"""What pip is told, where it is not the name alone."""


_ADD_SWAP = (
    "sudo sh -c 'fallocate -l 16G /swapfile && chmod 600 /swapfile && mkswap /swapfile && swapon /swapfile "
    "&& echo /swapfile none swap sw 0 0 >>/etc/fstab'"
)


def examine_machine(models: Path) -> Iterator[Finding]:
    """Cores, memory, swap, and room where models lie."""
    memory, swap = machine_memory(), psutil.swap_memory()
    yield Finding(mark="ok", what="cores", text=f"{len(os.sched_getaffinity(0))} usable")
    free = f"{memory.total / 1e9:.1f} GB, {memory.free / 1e9:.1f} GB free"
    yield Finding(mark="ok", what="memory", text=free)
    if (memory.total + swap.total) / 1e9 < LEAST_BUILD_GB:
        text = f"{swap.total / 1e9:.1f} GB; with the memory that is less than building large models takes"
        yield Finding(mark="note", what="swap", text=text, mend=_ADD_SWAP)
    else:
        yield Finding(mark="ok", what="swap", text=f"{swap.total / 1e9:.1f} GB")
    place = next(folder for folder in (models, *models.absolute().parents) if folder.exists())
    room = shutil.disk_usage(place).free / 1e9
    if room < LEAST_FREE_GB:
        mend = f"du -xh {place} | sort -h | tail"
        yield Finding(mark="fault", what="disk", text=f"{room:.1f} GB free in {place}", mend=mend)
    else:
        yield Finding(mark="ok", what="disk", text=f"{room:.0f} GB free in {place}")


def examine_libraries() -> Iterator[Finding]:
    """Installed versions of what runs and builds networks."""
    for name, purpose in LIBRARIES.items():
        try:
            yield Finding(mark="ok", what=name, text=version(name))
        except PackageNotFoundError:
            mend = f"{sys.executable} -m pip install {PACKAGES.get(name, name)}"
            yield Finding(mark="note", what=name, text=f"not installed; {purpose}", mend=mend)
