"""Options that `build` and `plan` share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Gpus = Annotated[
    list[str] | None,
    typer.Option("--gpu", help='A card ("RTX 3060") or SM86; once for each. Without it, the cards of this machine.'),
]
HistogramFile = Annotated[
    Path | None, typer.Option("--histogram", help="Tally of jobs; a default one per architecture otherwise.")
]
DiskGb = Annotated[
    float | None, typer.Option("--disk-gb", min=0, help="Disk for the engines of a model; all that is free otherwise.")
]
VramGb = Annotated[
    float | None, typer.Option("--vram-gb", min=0, help="Memory to use of each card; all of it otherwise.")
]
Profiles = Annotated[int, typer.Option("--profiles", min=1, help="Most profiles of one engine.")]
ModelsFolder = Annotated[
    Path | None, typer.Option("--models", envvar="TRT_WORKER_MODELS", help="Folder of further model folders.")
]
Family = Annotated[
    str | None, typer.Option("--architecture", help="Of the checkpoints, where their files do not say it.")
]
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--network", metavar="NAME=PATH", help="A network whose file lies elsewhere, as text_encoder=t5xxl.safetensors."
    ),
]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]

PROFILES = 6


def named_networks(options: list[str] | None, models: list[str] | None) -> tuple[tuple[str, Path], ...]:
    """What `--network` says. Raises: BadParameter: it is not of its form, or not for one model alone."""
    if options and len(models or ()) != 1:
        raise typer.BadParameter("a network belongs to one model: name that model and no other", param_hint="--network")
    found = []
    for option in options or ():
        name, sign, path = option.partition("=")
        if not (name and sign and path):
            raise typer.BadParameter(f"{option!r} is not NAME=PATH", param_hint="--network")
        found.append((name, Path(path).expanduser().absolute()))
    return tuple(found)


def at_a_time(jobs: int | None = None) -> int:
    """How many engines are built at a time: one for every two cores, unless it was said."""
    return jobs or max(1, len(os.sched_getaffinity(0)) // 2)


def in_bytes(gigabytes: float | None) -> int | None:
    """Bytes of a figure in GB."""
    return None if gigabytes is None else int(gigabytes * 1e9)
