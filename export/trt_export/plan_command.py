"""The `plan` command: what a build would give, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trt_engines.store.place import DEFAULT_STORE, VARIABLE
from trt_engines.text import message
from trt_export.options import (
    PROFILES,
    DiskGb,
    Family,
    Gpus,
    HistogramFile,
    Json,
    ModelsFolder,
    Networks,
    Profiles,
    VramGb,
    at_a_time,
    in_bytes,
    named_networks,
)

if TYPE_CHECKING:
    from trt_engines.architectures.architecture import Architecture
    from trt_export.building.holdings import Holdings

BAD_REQUEST = 2
"""Exit code where a name or a file is wrong."""


def plan(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Architectures or models; all architectures without any."),
    ] = None,
    gpu: Gpus = None,
    store: Annotated[Path, typer.Option("--store", envvar=VARIABLE, help="Folder of the engines.")] = DEFAULT_STORE,
    histogram: HistogramFile = None,
    profiles: Profiles = PROFILES,
    disk_gb: DiskGb = None,
    vram_gb: VramGb = None,
    memory_gb: Annotated[
        float | None,
        typer.Option("--memory-gb", min=0, help="Memory of the machine that builds; this one's otherwise."),
    ] = None,
    models_folder: ModelsFolder = None,
    family: Family = None,
    network: Networks = None,
    json: Json = None,
) -> None:
    """Say what a build would give, before anything is built: engines, sizes, times, memory, what fits and what not."""
    from trt_engines.architectures.registry import ARCHITECTURES, UnknownArchitecture
    from trt_engines.errors import EngineError
    from trt_engines.figures import write_figures
    from trt_engines.machine_memory import machine_memory
    from trt_engines.profiles.histogram import read_histogram
    from trt_engines.store.files import free_bytes
    from trt_export.building.holdings import Holdings
    from trt_export.building.targets import targets
    from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
    from trt_export.plan import Limits, default_for, make_plan
    from trt_export.plan_report import figures, render

    elsewhere = dict(named_networks(network, models))
    try:
        cards = targets(gpu or [], in_bytes(vram_gb))
        tally = read_histogram(histogram) if histogram is not None else None
        subjects = (
            [_subject(name, models_folder, family, elsewhere) for name in models]
            if models
            else [(one, Holdings(stored={}, problems={})) for one in ARCHITECTURES]
        )
        disk, memory = in_bytes(disk_gb), in_bytes(memory_gb)
        limits = Limits(
            disk_bytes=free_bytes(store) if disk is None else disk,
            host_bytes=machine_memory().total if memory is None else memory,
            profiles=profiles,
            jobs=at_a_time(),
        )
    except (UnknownArchitecture, UnreadableCheckpoint, EngineError, OSError) as error:
        typer.echo(message(f"plan: {error}"), err=True)
        raise typer.Exit(BAD_REQUEST) from error
    plans = []
    for entry, held in subjects:
        for card in cards:
            made = make_plan(entry, card, limits, tally if tally is not None else default_for(entry), held.stored)
            absent = tuple(f"{name}: {text}" for name, text in held.problems.items())
            plans.append(replace(made, unbuildable=(*absent, *made.unbuildable)))
            typer.echo(render(plans[-1], entry) + "\n")
    if json is not None:
        write_figures(json, figures(plans))


def _subject(
    model: str, models: Path | None, family: str | None, networks: Mapping[str, Path]
) -> tuple[Architecture, Holdings]:
    """The architecture of that name, or that of a model with the model's own sizes and what its files hold."""
    from trt_engines.architectures.registry import ARCHITECTURES
    from trt_export.building.holdings import Holdings, holdings
    from trt_export.building.source import open_source
    from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint

    for known in ARCHITECTURES:
        if known.name == model:
            return known, Holdings(stored={}, problems={})
    try:
        source = open_source(model, models, family, networks)
    except UnreadableCheckpoint as exc:
        names = ", ".join(known.name for known in ARCHITECTURES)
        raise UnreadableCheckpoint(f"{exc}; known architectures are {names}") from exc
    return source.architecture, holdings(source)
