"""`python -m trt_export`: from checkpoints to engines. Commands import what they need when they run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from trt_engines.text import message
from trt_export.build_command import build
from trt_export.models_command import add_found
from trt_export.models_command import app as models
from trt_export.plan_command import plan

app = typer.Typer(
    help="From checkpoints to engines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(build)
app.command()(plan)
app.command(name="add-found", hidden=True)(add_found)
app.add_typer(models, name="models")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A pickled checkpoint: .ckpt, .pt, .pth or .bin.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
) -> None:
    """Write the weights of a pickled checkpoint as safetensors, running none of its code."""
    from trt_engines.store.files import megabytes
    from trt_export.checkpoints.legacy import convert as convert_checkpoint

    with _errors():
        typer.echo(f"{target}: {megabytes(convert_checkpoint(source, target))}")


@app.command(name="random-checkpoint")
def random_checkpoint(
    name: Annotated[str, typer.Argument(metavar="ARCHITECTURE", help="Such as sdxl or flux_dev.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, float16, bfloat16 or float8.")] = "float16",
    small: Annotated[bool, typer.Option("--small", help="The small networks that tests use.")] = False,
    network: Annotated[
        list[str] | None, typer.Option("--network", help="Only this network, as in denoiser; give it once for each.")
    ] = None,
) -> None:
    """Write a checkpoint of random weights in the architecture's original layout."""
    from trt_engines.architectures.registry import architecture
    from trt_engines.store.files import megabytes
    from trt_export.checkpoints.random_checkpoint import TYPES, random_tensors, write_random

    if dtype not in TYPES:
        raise typer.BadParameter(f"{dtype!r} is none of {', '.join(TYPES)}", param_hint="--dtype")
    with _errors():
        family = architecture(name)
        if unknown := set(network or ()) - {one.name for one in family.networks}:
            known = ", ".join(one.name for one in family.networks)
            raise typer.BadParameter(f"{', '.join(sorted(unknown))}: networks are {known}", param_hint="--network")
        tensors = random_tensors(family, small=small, networks=network or ())
        size = write_random(target, tensors, seed=seed, dtype=dtype)
        typer.echo(f"{target}: {megabytes(size)}")


@contextmanager
def _errors() -> Iterator[None]:
    """End with what went wrong in one sentence, for what people can do something about."""
    from trt_engines.architectures.registry import UnknownArchitecture
    from trt_engines.errors import EngineError
    from trt_export.checkpoints.random_checkpoint import NoLayout
    from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
    from trt_export.child import PhaseFailed

    try:
        yield
    except (EngineError, UnknownArchitecture, PhaseFailed, NoLayout, UnreadableCheckpoint, OSError) as error:
        typer.echo(message(error), err=True)
        raise typer.Exit(1) from error
