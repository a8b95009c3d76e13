"""Full-size networks with random weights: exported, bound and compiled by the phases of `trt-worker build`.

Every phase runs in a process of its own, whose peak is the kernel's VmHWM: the most memory that was resident at one
time, which counts the pages of weight files that are mapped (and that the system could take back) like any other.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import onnx

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.registry import architecture
from trt_engines.builders.builder import BuildRequest
from trt_engines.builders.footprint import build_memory
from trt_engines.cards import card
from trt_engines.machine_memory import machine_memory
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.registry import MODULES, module_of, networks
from trt_engines.profiles.cost import plan_file_bytes
from trt_engines.profiles.profile import Profile, Range
from trt_engines.store.files import require_room
from trt_export.building.compiling import compile_plan
from trt_export.building.order import input_ranges
from trt_export.building.phases import export_by_name
from trt_export.checkpoints.binding import bind
from trt_export.checkpoints.checkpoint import open_checkpoint
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.random_checkpoint import random_tensors, write_random
from trt_export.child import Tell, run_phase, unheard
from trt_export.graphs.bound import bind_graph, link_files
from trt_export.graphs.exporter import parameters
from trt_export.plan import precision_of
from trt_perf.network_key import network_key
from trt_perf.progress import Progress

GB, MB = 1e9, 1e6
CARD = card("RTX 3060")
GRAPH, SIDE = "graph.onnx", "side.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model whose denoiser is built for one size, in half precision and for SM86."""

    figure: str  # as names of figures begin
    architecture: str
    side: int  # pixels
    rows: int  # most of one call, guidance included


SD15 = Subject(figure="sd15", architecture="stable_diffusion_1", side=512, rows=8)
SDXL = Subject(figure="sdxl", architecture="sdxl", side=1024, rows=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What a phase gave and took."""

    result: Any
    seconds: float  # with the start of its process
    peak_gb: float


def export_unet(subject: Subject, folder: Path, progress: Progress) -> dict[str, float]:
    """Export the denoiser with nothing beside it, and keep the graph in `folder`."""
    exported = _export(subject.architecture, module_of(subject.architecture, "denoiser"), folder)
    progress.say(f"{subject.architecture} denoiser exported: {exported.seconds:.0f} s, {exported.peak_gb:.2f} GB")
    return {
        f"{subject.figure}_unet_export_s": exported.seconds,
        f"{subject.figure}_unet_export_peak_gb": exported.peak_gb,
    }


def export_all(folder: Path, progress: Progress) -> dict[str, float]:
    """Export every network of every architecture that is not in `folder` yet, one on each core."""
    missing = [place for place in networks(_key).values() if not _graph_file(folder, place[1]).exists()]

    def run(place: tuple[Architecture, ModuleSpec]) -> None:
        entry, spec = place
        exported = _export(entry.name, spec, folder)
        size = _graph_file(folder, spec).stat().st_size / MB
        progress.say(f"{entry.name} {spec.name} exported: {exported.seconds:.0f} s, {size:.1f} MB")

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(run, missing))
    return {"largest_graph_mb": max(file.stat().st_size for file in folder.glob("*.onnx")) / MB}


def next_checkpoint(subject: Subject, graphs: Path, checkpoint: Path, progress: Progress) -> dict[str, float]:
    """Bind all networks of a model to a checkpoint that is met for the first time.

    Counted is what is written besides the engines: graphs, once to be compiled and once to be kept beside the engine,
    and weights that could not stay where they were.
    """
    written = 0
    for spec in MODULES[subject.architecture]:
        with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
            _bind(subject, spec, graphs, checkpoint, Path(folder))
            files = [file for file in Path(folder).iterdir() if not file.is_symlink()]
            written += sum(file.stat().st_size for file in files) + Path(folder, GRAPH).stat().st_size
    progress.say(f"{subject.architecture}: a further checkpoint takes {written / MB:.1f} MB besides its engines")
    return {"next_checkpoint_mb": written / MB}


def build_unet(subject: Subject, graphs: Path, checkpoint: Path, plan: Path, progress: Progress) -> dict[str, float]:
    """Compile the denoiser and write its engine.

    Raises: RuntimeError: less memory is free than the build is expected to take.
    """
    spec = module_of(subject.architecture, "denoiser")
    needed = build_memory(spec.network.parameters * 2, spec.network.parameters * 2, 1)
    if (free := machine_memory().free) < needed:
        raise RuntimeError(
            f"building the {subject.architecture} denoiser takes about {needed / GB:.1f} GB of memory and "
            f"{free / GB:.1f} GB are free; stop other programs"
        )
    profile = Profile(
        width=Range(min=subject.side, opt=subject.side, max=subject.side),
        height=Range(min=subject.side, opt=subject.side, max=subject.side),
        rows=Range(min=1, opt=2, max=subject.rows),
        tokens=Range(min=77, opt=77, max=231),
    )
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
        _bind(subject, spec, graphs, checkpoint, Path(folder))
        request = BuildRequest(
            graph=Path(folder, GRAPH),
            precision="float16",
            profiles=(input_ranges(spec.network, profile),),
            compute_capabilities=(CARD.sm,),
            batch_independent=True,
        )
        compiled = _phase(compile_plan, "tensorrt-rtx", request, plan)
    progress.say(
        f"{subject.architecture} denoiser compiled: {compiled.seconds:.0f} s "
        f"({compiled.result.parse_seconds:.0f} s to parse), {compiled.peak_gb:.1f} GB, "
        f"an engine of {plan.stat().st_size / GB:.2f} GB"
    )
    return {
        f"{subject.figure}_unet_build_s": compiled.seconds,
        f"{subject.figure}_unet_build_peak_gb": compiled.peak_gb,
    }


@contextmanager
def random_checkpoint(subject: Subject, folder: Path, engines: int, progress: Progress) -> Iterator[Path]:
    """A full-size checkpoint in the layout that the model is published in; its folder is gone afterwards.

    Args:
        engines: of the denoiser that will be written beside it.

    Raises: StoreFull: the disk has no room for all of it.
    """
    entry = architecture(subject.architecture)
    size = sum(network.parameters for network in entry.networks) * 2
    engine = plan_file_bytes(entry.network("denoiser").parameters * 2, 1)
    require_room(folder, f"a checkpoint and {engines} engines of {entry.title}", size + engines * engine)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        file = Path(own, "model.safetensors")
        written = _phase(write_checkpoint, subject.architecture, file)
        progress.say(f"{subject.architecture}: {file.stat().st_size / GB:.2f} GB of weights in {written.seconds:.0f} s")
        yield file


def write_checkpoint(name: str, file: Path, tell: Tell) -> None:
    """A phase: write a checkpoint of random weights in half precision."""
    del tell
    write_random(file, random_tensors(architecture(name)), seed=0, dtype="float16")


def _bind(subject: Subject, spec: ModuleSpec, graphs: Path, checkpoint: Path, folder: Path) -> None:
    """Put the graph of a network, joined to a checkpoint, into an empty folder."""
    graph = onnx.load(_graph_file(graphs, spec), load_external_data=False)
    tensors = open_checkpoint(checkpoint).of(spec.name)
    tables = key_maps(subject.architecture, spec.name)
    bound = bind_graph(graph, bind(parameters(graph), tensors, tables, folder / SIDE))
    link_files(bound, folder)
    onnx.save(bound.proto, folder / GRAPH)


def _key(spec: ModuleSpec) -> str:
    return network_key(spec, spec.config, spec.name, _precision(spec))


def _graph_file(folder: Path, spec: ModuleSpec) -> Path:
    return folder / f"{_key(spec)}.onnx"


def _precision(spec: ModuleSpec) -> str:
    return precision_of(spec.network, CARD) or spec.network.precisions[0]


def _export(name: str, spec: ModuleSpec, folder: Path) -> Phase:
    exported = _phase(export_by_name, name, spec.name, dict(spec.config), _precision(spec))
    _graph_file(folder, spec).write_bytes(exported.result)
    return exported


def _phase(work: Callable[..., Any], *arguments: Any) -> Phase:
    began = perf_counter()
    finished = run_phase(work, arguments, unheard, threading.Event())
    return Phase(result=finished.result, seconds=perf_counter() - began, peak_gb=finished.peak_bytes / GB)
