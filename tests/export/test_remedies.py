"""What a message tells people to do can be done: every option and command that one names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import typer

import trt_engines
import trt_export
from trt_export.cli import app
from trt_worker.cli import app as worker

OTHERS = {"--extra-index-url", "--help"}
"""Options of other programs, such as pip, and the one that every program has."""


def said() -> Iterator[tuple[str, str]]:
    """Every text of several words in the code that is no docstring, and where it is; the programs that made the model
    that ships have options of their own."""
    for package in (trt_engines, trt_export):
        for file in sorted(Path(package.__path__[0]).rglob("*.py")):
            if "shapes_tiny" in file.parts:
                continue
            tree = ast.parse(file.read_text())
            alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and id(node) not in alone
                    and " " in node.value
                ):
                    yield f"{file.name}:{node.lineno}", node.value


def options_of(command: typer.core.TyperGroup) -> Iterator[str]:
    """Of a command and of all below it."""
    for parameter in command.params:
        yield from parameter.opts
    for below in getattr(command, "commands", {}).values():
        yield from options_of(below)


def exists(command: object, words: list[str]) -> bool:
    for word in words:
        command = getattr(command, "commands", {}).get(word)
    return command is not None


def test_every_option_that_a_message_names_exists() -> None:
    known = {*options_of(typer.main.get_command(app)), *options_of(typer.main.get_command(worker)), *OTHERS}

    named = {(place, option) for place, text in said() for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}

    assert len(named) > 8
    assert {(place, option) for place, option in named if option not in known} == set()


def test_every_command_that_a_message_names_exists() -> None:
    named = {(place, words) for place, text in said() for words in re.findall(r"trt-worker ([a-z]+(?: [a-z]+)?)", text)}
    commands = typer.main.get_command(worker)

    assert len(named) > 3
    unknown = {(place, words) for place, words in named if not exists(commands, words.split()[:1])}
    assert unknown == set()
    assert all(exists(commands, ["engines", words.split()[1]]) for _, words in named if words.startswith("engines "))


def test_no_message_asks_for_a_precision_which_nothing_lets_anybody_choose() -> None:
    asking = re.compile(
        r"(choose|take|use|build)[^.;]* (another|other|in) (precision|float16|float32|bfloat16|float8)\b"
    )

    assert [(place, text) for place, text in said() if asking.search(text)] == []
