"""What the process that adds models tells is logged, and offered; it ends with the worker."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
import psutil
import pytest
from loguru import logger

from trt_engines.news import News
from trt_worker.config.schema import Config, CustomModel
from trt_worker.supervisor import newcomers
from trt_worker.supervisor.newcomers import add_newcomers, command

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


def instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have a script in place of the process that adds."""
    monkeypatch.setattr(newcomers, "command", lambda _config: [sys.executable, "-c", code])


async def test_news_are_logged_and_what_was_added_is_offered_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    news = (
        News(text="a.safetensors is no model yet."),
        News(text="A is added.", added="A"),
        News(text="B is not added: \x1b[2J", failed=True),
    )
    told = b"Warning: something of a library's\n" + b"".join(one.line() for one in news)
    instead(monkeypatch, f"import sys; sys.stdout.buffer.write({told!r})")
    logged: list[str] = []
    offered = 0

    async def added() -> None:
        nonlocal offered
        offered += 1

    sink = logger.add(lambda text: logged.append(str(text)), format="{level}: {message}", level="INFO")
    try:
        await add_newcomers(Config(cache_home=tmp_path), added)
    finally:
        logger.remove(sink)

    assert logged == [
        "INFO: a.safetensors is no model yet.\n",
        "SUCCESS: A is added.\n",
        "ERROR: B is not added: \\x1b[2J\n",
    ]
    assert offered == 1


async def test_the_process_is_killed_when_the_worker_stops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    line = News(text="here", added="A").line()
    told = tmp_path / "pid"
    code = f"""
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({str(told)!r}, "w").write(str(os.getpid()))
sys.stdout.buffer.write({line!r})
sys.stdout.flush()
signal.pause()
"""
    instead(monkeypatch, code)

    async with anyio.create_task_group() as group:

        async def added() -> None:
            group.cancel_scope.cancel()

        group.start_soon(add_newcomers, Config(cache_home=tmp_path), added)

    assert not psutil.pid_exists(int(told.read_text()))


async def test_a_process_that_says_what_cannot_be_understood_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    instead(monkeypatch, "import signal, sys; sys.stdout.write('x' * 70_000); sys.stdout.flush(); signal.pause()")

    async def added() -> None:
        raise AssertionError

    with anyio.fail_after(60):
        await add_newcomers(Config(cache_home=tmp_path), added)


async def test_no_process_is_started_where_there_is_nothing_to_look_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    instead(monkeypatch, f"open({str(tmp_path / 'ran')!r}, 'w')")

    async def added() -> None:
        raise AssertionError

    await add_newcomers(Config(cache_home=tmp_path / "absent"), added)

    assert not (tmp_path / "ran").exists()


def test_the_process_is_told_where_models_lie_and_which_ones_the_operator_named(tmp_path: Path) -> None:
    own = CustomModel(name="Mine", baseline="flux_1", filepath=tmp_path / "mine.safetensors")

    *first, option, custom = command(Config(cache_home=tmp_path, custom_models=(own,)))

    assert first[-3:] == ["add-found", "--models", str(tmp_path)]
    assert option == "--custom"
    assert json.loads(custom) == {"name": "Mine", "baseline": "flux_1", "filepath": str(own.filepath)}
