"""`trt-worker engines`: what is built on this rig, whether it is sound, and how it gets from rig to rig."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trt_engines.store.place import DEFAULT_STORE, VARIABLE
from trt_engines.text import escaped, message, shown

if TYPE_CHECKING:
    from trt_engines.store.store import Entry, Unfinished

app = typer.Typer(
    help="List, verify, inspect, prune, export and import built engines.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

StorePath = Annotated[Path, typer.Option("--store", envvar=VARIABLE, help="Folder of the engines.")]
JsonPath = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]
_DIGEST_SHOWN = 12
_CELL = 100  # characters of a cell of the table
_LINE = 500  # characters of a line about one engine
_HEAD = ("ENGINE", "STATE", "MODEL", "PART", "TYPE", "CARDS", "LIBRARY", "MB", "LAST USED", "CERTIFICATE")
_LIBRARIES = ("tensorrt-rtx", "tensorrt")


@app.command(name="list")
def show(store: StorePath = DEFAULT_STORE, json: JsonPath = None) -> None:
    """List engines and stopped builds."""
    from trt_engines.store.store import Store

    with _errors():
        engines, unfinished = Store(store).entries(), Store(store).unfinished()
        rows = [_row(entry) for entry in engines] + [_unfinished_row(one) for one in unfinished]
        if rows:
            _table(_HEAD, rows)
        for entry in engines:
            if entry.manifest is None:
                _say(shown(f"{entry.state}: {entry.problem}", _LINE), err=True)
        total = sum(one.size for one in engines) + sum(one.size for one in unfinished)
        _say(f"{len(engines)} engines, {len(unfinished)} unfinished builds, {total / 1e9:,.2f} GB in {store}")
        if json:
            _write(json, {
                "bytes": total,
                "engines": [_figures(entry) for entry in engines],
                "unfinished": [
                    {"digest": one.digest, "bytes": one.size, "held": one.held, "phases": list(one.phases)}
                    for one in unfinished
                ],
            })  # fmt: skip


@app.command()
def verify(
    engines: Annotated[list[str] | None, typer.Argument(help="Starts of digests; all engines without any.")] = None,
    store: StorePath = DEFAULT_STORE,
    json: JsonPath = None,
) -> None:
    """Compare every byte of engines with what was published; a damaged one is not served any more.

    Of engines that are named, every bucket of the certificate is shown.
    """
    from trt_engines.store.errors import StoreError, UncertifiedEngine
    from trt_engines.store.store import Store
    from trt_worker.engines_report import certified

    verdicts: dict[str, object] = {}
    with _errors():
        where = Store(store)
        names = [where.resolve(one) for one in engines] if engines else [one.digest for one in where.entries()]
        for name in names:
            try:
                where.verify(name)
            except UncertifiedEngine as error:
                verdicts[name] = "failed"
                _say(f"failed   {name[:_DIGEST_SHOWN]}  {error}", err=True)
            except StoreError as error:
                verdicts[name] = "unusable"
                _say(f"unusable {name[:_DIGEST_SHOWN]}  {error}", err=True)
            else:
                verdicts[name] = "sound"
                _say(f"sound    {name[:_DIGEST_SHOWN]}")
            if engines and verdicts[name] != "unusable":
                for line in certified(where.get(name).manifest.certificate):
                    _say(f"         {shown(line, _LINE)}")
        _say(f"{sum(one == 'sound' for one in verdicts.values())} of {len(verdicts)} engines are sound")
        if json:
            _write(json, verdicts)
    # An engine that failed its certificate is whole and kept on purpose: only damage is an error.
    raise typer.Exit(1 if "unusable" in verdicts.values() else 0)


@app.command()
def inspect(
    engine: Annotated[str, typer.Argument(help="Start of the engine's digest.")],
    layers: Annotated[bool, typer.Option("--layers", help="Also every layer of its graph.")] = False,
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Show what an engine was made of, for which shapes, and the graph it was compiled from."""
    from trt_engines.store.manifest import GRAPH
    from trt_engines.store.store import Store
    from trt_worker.engines_report import described

    with _errors():
        found = Store(store).get(Store(store).resolve(engine))
        for line in described(found.manifest):
            _say(shown(line, _LINE))
        if GRAPH in found.manifest.files:
            import onnx
            from polygraphy.backend.onnx.util import str_from_onnx

            graph = onnx.load(found.path(GRAPH), load_external_data=False)
            typer.echo(escaped(str_from_onnx(graph, show_layers=layers or None), keep="\n\t"))


@app.command()
def prune(
    store: StorePath = DEFAULT_STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    budget_gb: Annotated[float | None, typer.Option(min=0, help="All engines together, least used go first.")] = None,
    unfinished_days: Annotated[float, typer.Option(min=0, help="Stopped builds older than this go.")] = 7.0,
    keep_stale: Annotated[bool, typer.Option("--keep-stale", help="Keep those of other library versions.")] = False,
    keep_superseded: Annotated[
        bool, typer.Option("--keep-superseded", help="Keep those a newer one replaces.")
    ] = False,
    json: JsonPath = None,
) -> None:
    """Remove engines that are damaged, failed, of another library version or superseded, and old stopped builds."""
    import time

    from trt_engines.store.prune import Policy
    from trt_engines.store.prune import prune as prune_store
    from trt_engines.store.store import Store

    with _errors():
        policy = Policy(
            superseded=not keep_superseded,
            installed={} if keep_stale else _installed(),
            unfinished_after=unfinished_days * 86400,
            budget=None if budget_gb is None else int(budget_gb * 1e9),
        )
        removals = prune_store(Store(store), policy, time.time(), dry_run=dry_run)
        for one in removals:
            what = "build " if one.unfinished else "engine"
            _say(f"{what} {one.digest[:_DIGEST_SHOWN]}  {one.size / 1e6:>10,.1f} MB  {shown(one.reason)}")
        freed = sum(one.size for one in removals)
        _say(f"{'would free' if dry_run else 'freed'} {freed / 1e9:,.2f} GB in {store}")
        if json:
            removed = [{"digest": one.digest, "bytes": one.size, "reason": one.reason} for one in removals]
            _write(json, {"dry_run": dry_run, "bytes": freed, "removed": removed})


@app.command()
def export(
    engine: Annotated[str, typer.Argument(help="Start of the engine's digest.")],
    target: Annotated[Path, typer.Argument(help="File to write, or a folder to write it in.")] = Path(),
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Write an engine to one file, for another rig with the same card."""
    from trt_engines.store.archive import export_engine
    from trt_engines.store.store import Store

    with _errors():
        where = Store(store)
        written = export_engine(where, where.resolve(engine), target)
        _say(f"{written}  {written.stat().st_size / 1e6:,.1f} MB")


@app.command(name="import")
def import_(
    archives: Annotated[list[Path], typer.Argument(help="Files that `engines export` wrote.")],
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Bring engines from other rigs into the store, once every byte is verified."""
    from trt_engines.store.archive import import_engine
    from trt_engines.store.store import Store

    for archive in archives:
        with _errors():
            stored = import_engine(Store(store), archive)
            identity = stored.manifest.identity
            what = f"{', '.join(stored.manifest.models)} {identity.component} {identity.precision}"
            _say(f"{stored.digest[:_DIGEST_SHOWN]}  {shown(what)}, for {_cards(identity.compute_capabilities)}")


@contextmanager
def _errors() -> Iterator[None]:
    """What the store says is wrong, in one line, and exit code 1."""
    from trt_engines.errors import EngineError

    try:
        yield
    except (EngineError, OSError) as error:
        _say(" ".join(str(error).split()), err=True)
        raise typer.Exit(1) from error


def _row(entry: Entry) -> tuple[str, ...]:
    from trt_worker.engines_report import worst

    used = _date(entry.last_used)
    if entry.manifest is None:
        return (entry.digest[:_DIGEST_SHOWN], entry.state, "", "", "", "", "", f"{entry.size / 1e6:,.1f}", used, "")
    identity = entry.manifest.identity
    return (
        entry.digest[:_DIGEST_SHOWN],
        entry.state,
        ", ".join(entry.manifest.models),
        identity.component,
        identity.precision,
        _cards(identity.compute_capabilities),
        f"{identity.library} {identity.library_version}",
        f"{entry.size / 1e6:,.1f}",
        used,
        worst(entry.manifest.certificate),
    )


def _unfinished_row(one: Unfinished) -> tuple[str, ...]:
    state = "building" if one.held else "stopped"
    finished = f"after {', '.join(one.phases)}" if one.phases else ""
    size = f"{one.size / 1e6:,.1f}"
    return (one.digest[:_DIGEST_SHOWN], state, finished, "", "", "", "", size, _date(one.changed), "")


def _figures(entry: Entry) -> dict[str, object]:
    figures: dict[str, object] = {"digest": entry.digest, "state": entry.state, "bytes": entry.size}
    if entry.manifest is None:
        return figures | {"problem": entry.problem}
    manifest, identity = entry.manifest, entry.manifest.identity
    return figures | {
        "models": list(manifest.models),
        "architecture": identity.architecture,
        "component": identity.component,
        "precision": identity.precision,
        "compute_capabilities": list(identity.compute_capabilities),
        "library": identity.library,
        "library_version": identity.library_version,
        "profiles": len(identity.profiles),
        "certificate": {"verdict": manifest.certificate.verdict, **manifest.certificate.figures},
        "not_reproducible": manifest.reproducible,
        "build_s": {phase.name: phase.seconds for phase in manifest.phases},
        "build_peak_bytes": manifest.peak_bytes,
        "created": manifest.created.isoformat(),
        "last_used": _date(entry.last_used),
    }


def _say(text: str, *, err: bool = False) -> None:
    """Print text that may hold what a manifest or a library says: nothing in it steers the terminal."""
    typer.echo(message(text), err=err)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    shown_rows = [tuple(shown(cell, _CELL) for cell in row) for row in (head, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*shown_rows, strict=True)]
    for row in shown_rows:
        _say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cards(capabilities: Sequence[int]) -> str:
    return "+".join(f"SM{one}" for one in capabilities)


def _date(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _installed() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue  # engines for it may be meant for other rigs
    return found


def _write(path: Path, figures: dict[str, object]) -> None:
    from trt_engines.figures import write_figures

    write_figures(path, figures)
