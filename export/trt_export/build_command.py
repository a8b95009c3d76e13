"""The `build` command: models become engines for this rig's cards, or for others.

PyTorch is imported only where something is to be built: a second run finds the receipt of the first.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from trt_engines.builders.preflight import Machine
    from trt_engines.store.store import Store
    from trt_engines.store.stored import Stored
    from trt_export.building.asked import Asked
    from trt_export.building.campaign import Outcome
    from trt_export.building.interrupts import Interrupts
    from trt_export.building.located import Located
    from trt_export.building.progress import Outlook
    from trt_export.building.work import Work

FAILED, BAD_REQUEST, SIGNALLED = 1, 2, 128
"""Exit codes: something was not built; a name or an option is wrong; and what the number of a signal is added to."""


def build(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Names of models, .safetensors files or diffusers folders."),
    ] = None,
    gpu: Gpus = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Engines at a time; as cores and memory allow otherwise.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be built, and what stands in the way.")
    ] = False,
    store: Annotated[Path, typer.Option("--store", envvar=VARIABLE, help="Folder of the engines.")] = DEFAULT_STORE,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A network, such as denoiser; once for each. All otherwise.")
    ] = None,
    library: Annotated[
        str | None, typer.Option("--library", help="tensorrt-rtx or tensorrt; each card's preferred one otherwise.")
    ] = None,
    refittable: Annotated[bool, typer.Option("--refittable", help="Engines whose weights can be exchanged.")] = False,
    histogram: HistogramFile = None,
    profiles: Profiles = PROFILES,
    disk_gb: DiskGb = None,
    vram_gb: VramGb = None,
    models_folder: ModelsFolder = None,
    family: Family = None,
    network: Networks = None,
    json: Json = None,
) -> None:
    """Build engines of models, of all known ones without a name; what stands already is not built again.

    A checkpoint that is no model yet is added to the models first, where there is a folder of them.
    """
    from trt_engines.errors import EngineError
    from trt_engines.figures import write_figures
    from trt_engines.store.store import Store
    from trt_export.building.asked import Asked
    from trt_export.building.compiling import BUILDERS
    from trt_export.building.interrupts import interrupts
    from trt_export.building.located import known_models, locate
    from trt_export.building.targets import targets
    from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint

    if library is not None and library not in BUILDERS:
        raise typer.BadParameter(f"{library!r} is none of {', '.join(BUILDERS)}", param_hint="--library")
    elsewhere = named_networks(network, models)
    began = time.monotonic()
    with interrupts() as interrupted:
        try:
            asked = Asked(
                targets=targets(gpu or [], in_bytes(vram_gb)),
                library=library,
                refittable=refittable,
                components=tuple(only or ()),
                histogram=histogram,
                profiles=profiles,
                disk_bytes=in_bytes(disk_gb),
                family=family,
            )
            names = [
                one if dry_run else _added(one, models_folder, elsewhere, family, store, interrupted)
                for one in models or ()
            ]
            found = [locate(one, models_folder, elsewhere) for one in names] or known_models(
                models_folder, lambda error: typer.echo(f"build: passed over: {error}", err=True)
            )
            figures, code = _build(found, asked, Store(store), jobs, interrupted, dry_run=dry_run)
        except (EngineError, UnreadableCheckpoint, OSError) as error:
            typer.echo(message(f"build: {' '.join(str(error).split())}"), err=True)
            raise typer.Exit(BAD_REQUEST) from error
    if json:
        write_figures(json, figures | {"dry_run": dry_run, "seconds": round(time.monotonic() - began, 1)})
    raise typer.Exit(code)


def _added(
    model: str,
    models: Path | None,
    networks: tuple[tuple[str, Path], ...],
    family: str | None,
    store: Path,
    interrupted: Interrupts,
) -> str:
    """The name of the model of a checkpoint, which is added if it was none yet; what cannot be added stays a path."""
    from trt_engines.description import FILE
    from trt_engines.model import find_models

    path = Path(model).expanduser()
    if models is None or not path.exists() or (path / FILE).is_file():
        return model
    if model in find_models([models], unusable=lambda _: None):
        return model
    from trt_export.adding.found import added_from
    from trt_export.adding.wanted import Wanted
    from trt_export.child import Stopped
    from trt_export.models_command import add_checkpoint, adding_problems

    wanted = Wanted(path=path.absolute(), networks=dict(networks), family=family)
    if (known := added_from(models, wanted)) is not None:
        return known
    try:
        return add_checkpoint(wanted, models, store, interrupted.stop, typer.echo).model.name
    except Stopped as error:
        raise typer.Exit(SIGNALLED + (interrupted.number or 0)) from error
    except adding_problems() as error:
        typer.echo(message(f"build: not added to the models, so that it is built and not served: {error}"), err=True)
        return model


def _build(
    found: Sequence[Located], asked: Asked, store: Store, jobs: int | None, interrupted: Interrupts, *, dry_run: bool
) -> tuple[dict[str, Any], int]:
    """What was done, as figures, and the exit code."""
    from trt_export.building.receipt import standing
    from trt_export.estimates import COMMAND_SECONDS

    rows: list[dict[str, Any]] = []
    missing = []
    for model in found:
        engines = standing(store, model, asked.document())
        if engines is None:
            missing.append(model)
            continue
        for engine in engines:
            rows.append(_standing_row(engine))
            typer.echo(f"{rows[-1]['label']}: is there already ({engine.digest[:12]})")
    if not missing:
        typer.echo(f"nothing to do: {len(rows)} engines stand in {store.root}")
        return {"engines": rows, "problems": []}, 0
    works, machine = _look(missing, asked, store)
    outlook = _outlook(works, store, machine, at_a_time(jobs))
    problems = [problem for work in works for problem in work.problems]
    for work in works:
        if work.assumption:
            typer.echo(message(f"{work.located.name}: {work.assumption}"), err=True)
    for problem in problems:
        typer.echo(message(f"cannot be built: {problem}"), err=True)
    if dry_run:
        seconds = COMMAND_SECONDS + outlook.left(0.0) if outlook.builds else 0.0
        rows += _foretold(works, outlook, store, seconds)
        figures = {"engines": rows, "problems": problems, "planned_seconds": round(seconds, 1)}
        return figures, FAILED if problems else 0
    outcomes = _run(works, asked, store, machine, outlook, interrupted)
    _sum_up(outcomes, problems, interrupted, store)
    rows += [_row(outcome) for outcome in outcomes]
    code = FAILED if problems or not all(outcome.good for outcome in outcomes) else 0
    return {"engines": rows, "problems": problems}, SIGNALLED + interrupted.number if interrupted.number else code


def _look(found: Sequence[Located], asked: Asked, store: Store) -> tuple[list[Work], Machine]:
    """What is to be built, and the machine that is to do it."""
    from trt_engines.builders.preflight import Machine
    from trt_engines.machine_memory import machine_memory
    from trt_engines.store.files import free_bytes
    from trt_export.building.targets import NoCard, cards_here
    from trt_export.building.work import work_for

    try:
        here = frozenset(card.sm for card in cards_here())
    except NoCard:  # matters to a library that needs the card, which then says so
        here = frozenset()
    machine = Machine(memory_bytes=machine_memory().free, disk_bytes=free_bytes(store.root), cards=here)
    return [work_for(model, asked, machine) for model in found], machine


def _outlook(works: Sequence[Work], store: Store, machine: Machine, jobs: int) -> Outlook:
    """On the engines of all works, `jobs` at a time."""
    from trt_export.building.campaign import admitted
    from trt_export.building.forecast import forecast
    from trt_export.building.progress import Outlook
    from trt_export.graphs.cache import GraphCache

    memory = [order.needs.memory_bytes for work in works for order in work.orders]
    planned = forecast(works, GraphCache(store.root / "graphs"))
    return Outlook(planned, partial(admitted, memory, jobs, machine.memory_bytes))


def _foretold(works: Sequence[Work], outlook: Outlook, store: Store, seconds: float) -> list[dict[str, Any]]:
    """Say what would be built; gives it as figures. Args: seconds: of the whole command."""
    from trt_export.building.board import duration

    orders = [order for work in works for order in work.orders]
    times = [sum(planned.expected.values()) for planned in outlook.builds]
    for order, time_of in zip(orders, times, strict=True):
        needs = order.needs
        typer.echo(
            f"{order.label}: about {duration(time_of)}, {needs.memory_bytes / 1e9:.1f} GB of memory, "
            f"{needs.disk_bytes / 1e9:.2f} GB on disk, profiles: {len(order.profiles)}, by {order.library}"
        )
    typer.echo(
        f"would build {len(orders)} engines into {store.root} in about {duration(seconds)}, but for those that stand "
        "there already"
        if orders
        else "nothing would be built"
    )
    return [
        {
            "label": order.label,
            "component": order.module.name,
            "state": "planned",
            "seconds": round(sum(planned.expected.values()), 1),
            "phases": {name: round(phase, 1) for name, phase in planned.expected.items()},
            "memory_bytes": order.needs.memory_bytes,
            "disk_bytes": order.needs.disk_bytes,
        }
        for order, planned in zip(orders, outlook.builds, strict=True)
    ]


def _run(
    works: Sequence[Work], asked: Asked, store: Store, machine: Machine, outlook: Outlook, interrupted: Interrupts
) -> tuple[Outcome, ...]:
    """Build, and leave a receipt for each model of which everything stands."""
    from trt_export.building.board import open_board
    from trt_export.building.campaign import Task, run_campaign
    from trt_export.building.receipt import keep
    from trt_export.building.work import build_order

    owners, tasks = [], []
    for work in works:
        for order in work.orders:
            owners.append(work)
            tasks.append(Task(order=order, build=partial(build_order, order, work, store, machine, interrupted.stop)))
    with open_board(sys.stdout, outlook) as board:
        outcomes = run_campaign(tasks, board, outlook, interrupted.stop)
    for work in works:
        of_it = [outcome for owner, outcome in zip(owners, outcomes, strict=True) if owner is work]
        if not work.problems and all(outcome.good for outcome in of_it):
            keep(store, work.located, asked.document(), [one.built.digest for one in of_it if one.built])
    return outcomes


def _sum_up(outcomes: Sequence[Outcome], problems: Sequence[str], interrupted: Interrupts, store: Store) -> None:
    good = sum(outcome.good for outcome in outcomes)
    typer.echo(f"{good} of {len(outcomes)} engines stand in {store.root}")
    for outcome in outcomes:
        if not outcome.good and not outcome.stopped:
            typer.echo(message(f"failed: {outcome.order.label}: {outcome.said}"), err=True)
    if problems:
        typer.echo(f"{len(problems)} problems stand in the way of the rest: see above", err=True)
    if interrupted.number:
        typer.echo("stopped; the store is whole, and the same command goes on after the last finished phase", err=True)


def _row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"label": outcome.order.label, "component": outcome.order.module.name}
    if outcome.built is None:
        return row | {"state": "stopped" if outcome.stopped else "failed", "problem": outcome.problem}
    built = outcome.built
    return row | {
        "state": "built" if built.fresh else "present",
        "digest": built.digest,
        "bytes": built.size,
        "certificate": {"verdict": built.certificate.verdict, **built.certificate.figures},
        "phases": {name: round(seconds, 2) for name, seconds in built.phases.items()},
        "peak_bytes": built.peak_bytes,
        "graph_bytes": built.graph_bytes,
        "written_bytes": built.written_bytes,
    }


def _standing_row(engine: Stored) -> dict[str, Any]:
    manifest, identity = engine.manifest, engine.manifest.identity
    cards = "+".join(f"SM{sm}" for sm in identity.compute_capabilities)
    return {
        "label": f"{', '.join(manifest.models)} {identity.component} {identity.precision} {cards}",
        "component": identity.component,
        "state": "present",
        "digest": engine.digest,
        "bytes": manifest.size,
        "certificate": {"verdict": manifest.certificate.verdict, **manifest.certificate.figures},
        "phases": {phase.name: round(phase.seconds, 2) for phase in manifest.phases},
        "peak_bytes": manifest.peak_bytes,
    }
