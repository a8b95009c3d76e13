"""`models`: checkpoints become models of this rig, and are listed, checked and removed.

PyTorch is imported only where a checkpoint is added.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trt_engines.store.place import DEFAULT_STORE, VARIABLE
from trt_engines.text import message, shown
from trt_export.options import Family, Json, Networks, named_networks

if TYPE_CHECKING:
    from trt_export.adding.add import Added
    from trt_export.adding.wanted import Wanted

BAD_REQUEST, FAILED, SIGNALLED = 2, 1, 128
"""Exit codes: it cannot be done as it was asked for; something is wrong with a model; and what the number of a signal
is added to. As those of `build`."""

LEAST_NICE = 10
"""How much a process that adds in the background stands back for others."""

app = typer.Typer(
    help="Add checkpoints to the models of this rig; list, check and remove models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Option("--models", envvar="TRT_WORKER_MODELS", help="Folder of the models.")]
StorePath = Annotated[Path, typer.Option("--store", envvar=VARIABLE, help="Folder of the engines and graphs.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of models; all without any.")]
MODELS = Path("models")


@app.command()
def add(
    path: Annotated[
        Path, typer.Argument(help="A .safetensors or .ckpt file, a diffusers folder, or a folder of split files.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="Of the model; the file's or folder's otherwise.")] = None,
    network: Networks = None,
    family: Family = None,
    models: Folder = MODELS,
    store: StorePath = DEFAULT_STORE,
    json: Json = None,
) -> None:
    """Add a checkpoint: it is bound where it lies, and nothing is copied but what cannot be."""
    from trt_engines.figures import write_figures
    from trt_export.adding.found import Notes
    from trt_export.adding.wanted import Wanted

    wanted = Wanted(path=path, name=name, networks=dict(named_networks(network, [str(path)])), family=family)
    began = time.monotonic()
    with ended_by_signals() as stop, _errors("add"):
        added = add_checkpoint(wanted, models, store, stop, typer.echo)
        with suppress(OSError):
            Notes(models).forget(wanted.path.expanduser().absolute())
    seconds = round(time.monotonic() - began, 1)
    typer.echo(f"{added.model.name} is added in {seconds:.1f} s, and served from the next start or reload on")
    if json:
        write_figures(
            json,
            {
                "name": added.model.name,
                "architecture": added.model.architecture,
                "seconds": seconds,
                "written_bytes": added.written_bytes,
                "exported": list(added.exported),
                "notes": list(added.notes),
            },
        )


@app.command(name="list")
def show(models: Folder = MODELS, store: StorePath = DEFAULT_STORE, json: Json = None) -> None:
    """List the models: what they are, where their checkpoints lie, and what can run them."""
    from dataclasses import asdict

    from trt_engines.figures import write_figures
    from trt_engines.store.files import megabytes
    from trt_engines.store.store import Store
    from trt_export.adding.overview import READY, overviews

    with _errors("list"):
        found = overviews(models, Store(store))
    for one in found:
        what = f"{one.title}{f', predicts {one.prediction}' if one.prediction else ''}" if one.title else "unknown"
        typer.echo(shown(f"{one.name}: {what}, {megabytes(one.bytes)} at {one.lies}", 500))
        typer.echo(f"  {'can be run by ' + ', '.join(one.backends) if one.backends else 'nothing can run it'}")
        if one.state != READY:
            typer.echo(shown(f"  {one.state}", 1000))
    typer.echo(f"{len(found)} models, {sum(one.state == READY for one in found)} of them ready; added ones in {models}")
    if json:
        write_figures(json, {"models": len(found)}, models=[asdict(one) for one in found])


@app.command()
def check(names: Names = None, models: Folder = MODELS, json: Json = None) -> None:
    """Read every byte of models: files there, links whole, digests right, graphs and weights fit each other."""
    from trt_engines.figures import write_figures
    from trt_engines.model import BUILT_IN, model_folders
    from trt_export.adding.overview import problem_with

    folders = {folder.name: folder for folder in model_folders(BUILT_IN, models)}
    if unknown := [name for name in names or () if name not in folders]:
        typer.echo(message(f"models check: there is no model {unknown[0]!r}; there are {', '.join(folders)}"), err=True)
        raise typer.Exit(BAD_REQUEST)
    problems = {}
    for name in names or folders:
        problems[name] = problem_with(folders[name])
        typer.echo(shown(f"{name}: {problems[name] or 'sound'}", 1000), err=bool(problems[name]))
    if json:
        write_figures(json, {"models": len(problems), "faults": sum(map(bool, problems.values()))}, problems=problems)
    raise typer.Exit(FAILED if any(problems.values()) else 0)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="Of the model.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    models: Folder = MODELS,
) -> None:
    """Remove a model: what this worker wrote of it, never the checkpoint."""
    from trt_export.adding.found import Notes
    from trt_export.adding.removal import removal_of
    from trt_export.adding.removal import remove as remove_model
    from trt_export.adding.wanted import Wanted, looks_of

    with _errors("remove"):
        removal = removal_of(models, name) if dry_run else remove_model(models, name)
        if not dry_run:  # or the worker would add it again
            gone = Wanted(path=removal.source)
            with suppress(OSError):
                Notes(models).keep(gone, looks_of(gone), "removed")
    for file in removal.files:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {file}")
    for file in removal.kept:
        typer.echo(f"stays, for this worker did not write it: {file}", err=True)
    typer.echo(f"the checkpoint stays: {removal.source}")


def add_found(
    models: Folder = MODELS,
    store: StorePath = DEFAULT_STORE,
    custom: Annotated[
        list[str] | None, typer.Option("--custom", help='{"name": ..., "baseline": ..., "filepath": ...} as JSON.')
    ] = None,
) -> None:
    """Add what lies in the folder of models and is none yet, one after another; for a worker, which reads the lines."""
    from trt_engines.news import News
    from trt_export.adding.found import Notes, survey
    from trt_export.child import die_with_parent

    die_with_parent()
    os.nice(LEAST_NICE)

    def tell(news: News) -> None:
        sys.stdout.buffer.write(news.line())
        sys.stdout.buffer.flush()

    notes = Notes(models)
    found = survey(models, [_custom(one) for one in custom or ()], notes)
    for one in found.gone:
        tell(News(text=f"The checkpoint of {one.model} is gone: {one.path}", failed=True))
    with ended_by_signals() as stop:
        for one in found.changed:
            tell(News(text=f"The checkpoint of {one.model} has changed ({one.path}): it is added anew."))
            _add_one(one, models, store, notes, tell, stop)
        for one in found.new:
            tell(News(text=f"{one.path} is no model yet: it is added as {one.model}."))
            _add_one(one, models, store, notes, tell, stop)


def _add_one(
    wanted: Wanted, models: Path, store: Path, notes: Any, tell: Callable[[Any], None], stop: threading.Event
) -> None:
    from trt_engines.news import News
    from trt_export.adding.wanted import looks_of

    looks = looks_of(wanted)
    try:
        added = add_checkpoint(wanted, models, store, stop, lambda _: None)
    except Exception as error:
        if not expected(error):
            raise
        tell(News(text=f"{wanted.model} is not added, and not tried again before it changes: {error}", failed=True))
        with suppress(OSError):
            notes.keep(wanted, looks, str(error))
    else:
        what = " ".join((f"{added.model.name} is added: {added.title}.", *added.notes))
        tell(News(text=what, added=added.model.name))


def add_checkpoint(
    wanted: Wanted, models: Path, store: Path, stop: threading.Event, say: Callable[[str], None]
) -> Added:
    """Add a checkpoint and say what it is, and how far it is. Raises: as `add_model`."""
    from trt_engines.store.files import megabytes
    from trt_export.adding.wanted import check_there
    from trt_export.checkpoints.kinds import refuse_other_kinds

    check_there(wanted)  # before the libraries are loaded that adding takes
    refuse_other_kinds(wanted.path)
    from trt_export.adding.add import add_model

    told = ""

    def tell(step: str, _share: float) -> None:
        nonlocal told
        if step != told:
            told = step
            say(f"{wanted.model}: {step}")

    added = add_model(wanted, models=models, graphs=store / "graphs", tell=tell, stop=stop)
    say(f"{wanted.path} is {added.title}, of {', '.join(added.types)}")
    for note in added.notes:
        say(message(note))
    say(f"wrote {megabytes(added.written_bytes)} to {added.model.folder}; the weights stay where they are")
    return added


@contextmanager
def ended_by_signals() -> Iterator[threading.Event]:
    """Have SIGINT and SIGTERM end a command at once, by an exception: what is half done is removed on the way out.

    Gives an event that is set then. For the main thread.
    """
    stop = threading.Event()

    def end(number: int, _frame: FrameType | None) -> None:
        if not stop.is_set():  # a second signal would interrupt the removal
            stop.set()
            raise SystemExit(SIGNALLED + number)

    before: list[tuple[int, Any]] = [(one, signal.signal(one, end)) for one in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield stop
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _custom(text: str) -> Wanted:
    import orjson

    from trt_export.adding.wanted import Wanted

    try:
        said = orjson.loads(text)
        return Wanted(path=Path(said["filepath"]).absolute(), name=said["name"], baseline=said["baseline"])
    except (orjson.JSONDecodeError, LookupError, TypeError) as error:
        raise typer.BadParameter(f"{text!r}: {error!r}", param_hint="--custom") from error


def expected(error: Exception) -> bool:
    """Whether people can do something about what adding a checkpoint has ended with."""
    from trt_engines.architectures.registry import UnknownArchitecture
    from trt_engines.errors import EngineError
    from trt_export.adding.wanted import CannotAdd
    from trt_export.checkpoints.binding import WeightsMissing
    from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
    from trt_export.child import PhaseFailed

    known = (EngineError, UnknownArchitecture, CannotAdd, WeightsMissing, UnreadableCheckpoint, PhaseFailed, OSError)
    return isinstance(error, known)


@contextmanager
def _errors(command: str) -> Iterator[None]:
    """End with what went wrong in one sentence, for what people can do something about."""
    from trt_export.adding.removal import CannotRemove

    try:
        yield
    except Exception as error:
        if not isinstance(error, CannotRemove) and not expected(error):
            raise
        typer.echo(message(f"models {command}: {' '.join(str(error).split())}"), err=True)
        raise typer.Exit(BAD_REQUEST) from error
