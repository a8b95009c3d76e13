"""The commands. Each imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trt_worker import __version__
from trt_worker.engines_command import app as engines

if TYPE_CHECKING:
    from trt_worker.config.load import Loaded
    from trt_worker.supervisor.spawn import DeviceProcess

app = typer.Typer(
    name="trt-worker",
    help="Image worker for the AI Power Grid. Without a command it runs.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(engines, name="engines")

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="Configuration file.")]
Name = Annotated[str | None, typer.Option("--worker-name", "-n", help="Overrides dreamer_name.")]
Environment = Annotated[
    bool, typer.Option("--load-config-from-env-vars", "-e", help="Read AIWORKER_* variables only, no file.")
]
Verbosity = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; twice for everything.")]
JsonPath = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]
HOME = Path(os.environ.get("TRT_WORKER_HOME", "."))
DEFAULT_CONFIG = HOME / "bridgeData.yaml"
BAD_CONFIG = 2


@app.callback(invoke_without_command=True)
def _default(
    context: typer.Context,
    config: ConfigPath = DEFAULT_CONFIG,
    name: Name = None,
    from_environment: Environment = False,
    verbosity: Verbosity = 0,
) -> None:
    if context.invoked_subcommand is None:
        run(config=config, name=name, from_environment=from_environment, verbosity=verbosity)


@app.command()
def run(
    config: ConfigPath = DEFAULT_CONFIG,
    name: Name = None,
    from_environment: Environment = False,
    verbosity: Verbosity = 0,
) -> None:
    """Work: take jobs until SIGINT or SIGTERM, then finish what was taken."""
    from trt_worker.supervisor.spawn import spawn

    with spawn() as device:  # it loads its libraries while this process loads its own
        status = _run(None if from_environment else config, name, verbosity, device)
    raise typer.Exit(status)


def _run(path: Path | None, name: str | None, verbosity: int, device: DeviceProcess) -> int:
    import anyio
    from loguru import logger

    from trt_worker.app import ConfigSource
    from trt_worker.app import run as serve
    from trt_worker.errors import ConfigError
    from trt_worker.instance import folder_name, only_worker

    loaded = _load(path, name)
    config = loaded.config
    logs = config.log_dir / folder_name(name) if name else config.log_dir  # -n: one of several in this folder
    try:
        with only_worker(config.dreamer_name, config.log_dir, logs):
            _configure_logs(logs, verbosity, secrets=config.secrets, limited=config.limited_console_messages)
            for note in loaded.notes:
                logger.warning("{}", note)
            source = ConfigSource(path=path, environ=os.environ, name=name, home=HOME) if path else None
            return anyio.run(
                lambda: serve(config, source=source, log_directory=logs, verbosity=verbosity, started=device),
                backend_options={"use_uvloop": True},
            )
    except ConfigError as error:
        typer.echo(str(error), err=True)
        return BAD_CONFIG


@app.command()
def demo(
    jobs: Annotated[int, typer.Option(min=1, max=1000, help="Jobs to serve.")] = 24,
    sheet: Annotated[Path, typer.Option(help="Where the pictures are shown together.")] = HOME / "logs" / "demo.png",
    json: JsonPath = None,
    verbosity: Verbosity = 0,
) -> None:
    """Serve mixed jobs of a local grid on this machine and check every image."""
    import anyio

    from trt_engines.figures import write_figures
    from trt_worker.demo import contact_sheet, run_demo

    logs = HOME / "logs" / "demo"  # a worker at work in this folder goes on writing its own
    _configure_logs(logs, verbosity)
    outcome = anyio.run(
        lambda: run_demo(jobs, log_directory=logs, verbosity=verbosity), backend_options={"use_uvloop": True}
    )
    contact_sheet(outcome.pictures, sheet)
    for name, value in outcome.figures.items():
        typer.echo(f"{name:>14}  {value}")
    typer.echo(f"{'pictures':>14}  {sheet}")
    for problem in outcome.problems:
        typer.echo(f"problem: {problem}", err=True)
    if json:
        write_figures(json, outcome.figures)
    good = outcome.acked == outcome.jobs and outcome.images == outcome.verified and not outcome.problems
    raise typer.Exit(0 if good else 1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context) -> None:
    """Measure: `bench [SUITE] [--json PATH]`; `bench --help` names the suites."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", "trt_perf", *context.args])


_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_PASSED_ON)
def build(context: typer.Context) -> None:
    """Build engines of models for this rig's cards or others: `build [MODEL...] [--gpu ...]`; see `build --help`."""
    _export("build", context.args)


@app.command(context_settings=_PASSED_ON)
def plan(context: typer.Context) -> None:
    """Say what building a model would give: `plan MODEL --gpu "RTX 3060"`; see `plan --help`."""
    _export("plan", context.args)


@app.command(context_settings=_PASSED_ON)
def models(context: typer.Context) -> None:
    """Add checkpoints, list, check and remove models: `models add PATH [--name NAME]`; see `models --help`."""
    _export("models", context.args)


@app.command()
def doctor(
    config: ConfigPath = DEFAULT_CONFIG,
    check_weights: Annotated[
        bool, typer.Option("--check-weights", help="Also compare every byte of weights with its digest.")
    ] = False,
    json: JsonPath = None,
) -> None:
    """Look at this rig and say what works, what does not, and what mends it."""
    from dataclasses import asdict

    from trt_engines.text import shown
    from trt_worker.doctor.examine import examine

    findings = examine(config, os.environ, HOME, read_weights=check_weights)
    for finding in findings:
        typer.echo(f"{finding.mark:>5}  {finding.what:<14} {shown(finding.text, 1000)}")
        if finding.mend:
            typer.echo(f"{'':>5}  {'':<14} -> {shown(finding.mend, 1000)}")
    if json:
        from trt_engines.figures import write_figures

        marks = [finding.mark for finding in findings]
        figures = {"faults": marks.count("fault"), "notes": marks.count("note")}
        write_figures(json, figures, findings=[asdict(finding) for finding in findings])
    raise typer.Exit(1 if any(finding.mark == "fault" for finding in findings) else 0)


@app.command(name="config")
def show_config(config: ConfigPath = DEFAULT_CONFIG, name: Name = None, from_environment: Environment = False) -> None:
    """Show the configuration as the worker reads it, without secrets."""
    loaded = _load(None if from_environment else config, name)
    for key, value in loaded.config.redacted().items():
        typer.echo(f"{key}: {value}")
    for note in loaded.notes:
        typer.echo(f"note: {note}", err=True)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _export(command: str, arguments: list[str]) -> None:
    """Become a command of `trt_export`, which knows the models that the configuration does."""
    if "TRT_WORKER_MODELS" not in os.environ:
        configured = _load(DEFAULT_CONFIG, None).config.cache_home if DEFAULT_CONFIG.exists() else HOME / "models"
        os.environ["TRT_WORKER_MODELS"] = str(configured)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "trt_export", command, *arguments])


def _load(path: Path | None, name: str | None) -> Loaded:
    from trt_worker.config.load import load_config
    from trt_worker.errors import ConfigError

    try:
        return load_config(path, environ=os.environ, name=name, home=HOME)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(BAD_CONFIG) from error


def _configure_logs(directory: Path, verbosity: int, *, secrets: Iterable[str] = (), limited: bool = False) -> None:
    from trt_worker.errors import ConfigError
    from trt_worker.telemetry.logs import configure_logs

    try:
        configure_logs(directory, process=None, verbosity=verbosity, secrets=secrets, console=True, limited=limited)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(BAD_CONFIG) from error


def main() -> None:
    """Entry point of `trt-worker`."""
    app(prog_name="trt-worker")
