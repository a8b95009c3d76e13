"""Changing the file under a running worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest
from loguru import logger

from trt_worker.config.keys import RELOADED
from trt_worker.config.load import load_config
from trt_worker.config.reload import Reload, follow, reloadable, watch
from trt_worker.config.schema import Config

FIRST = "api_key: key-of-mine\ndreamer_name: Rig\nmax_power: 2\n"
SOON = 0.01


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "bridgeData.yaml"
    file.write_text(FIRST)
    return file


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level} {message}", level="INFO")  # type: ignore[arg-type]
    yield lines
    logger.remove(sink)


def write(path: Path, text: str) -> None:
    path.write_text(text)


def remove(path: Path) -> None:
    path.unlink()


def running(path: Path) -> Config:
    return load_config(path, environ={}).config


def test_safe_keys_are_taken_over_and_others_keep_their_value_until_a_restart() -> None:
    old = Config()
    new = old.model_copy(update={"max_power": 9, "nsfw": False, "cache_home": Path("/b"), "network": "both"})

    reload = reloadable(old, new)

    assert reload.config == old.model_copy(update={"max_power": 9, "nsfw": False})
    assert set(reload.applied) == {"max_power", "nsfw"}
    assert set(reload.needs_restart) == {"network", "cache_home"}


def test_the_same_configuration_changes_nothing() -> None:
    reload = reloadable(Config(), Config())

    assert (reload.config, reload.applied, reload.needs_restart) == (Config(), (), ())


@pytest.mark.parametrize("key", ["api_key", "dreamer_name", "network", "grid_url", "cache_home", "backends", "log_dir"])
def test_who_and_where_the_worker_is_never_changes_while_it_runs(key: str) -> None:
    assert key not in RELOADED


@pytest.mark.anyio
async def test_a_file_that_has_changed_is_noticed(path: Path) -> None:
    async with aclosing(watch(path, seconds=SOON)) as changes:
        write(path, FIRST + "nsfw: false\n")

        with anyio.fail_after(10):
            await anext(changes)


@pytest.mark.anyio
async def test_a_file_that_an_editor_has_replaced_is_noticed(path: Path, tmp_path: Path) -> None:
    async with aclosing(watch(path, seconds=SOON)) as changes:
        write(tmp_path / "new", FIRST)
        os.replace(tmp_path / "new", path)

        with anyio.fail_after(10):
            await anext(changes)


@pytest.mark.anyio
async def test_a_file_that_is_gone_or_unchanged_is_no_change(path: Path) -> None:
    async with aclosing(watch(path, seconds=SOON)) as changes:
        remove(path)

        with anyio.move_on_after(10 * SOON) as waiting:
            await anext(changes)

    assert waiting.cancelled_caught


@pytest.mark.anyio
async def test_a_pipe_in_place_of_the_file_is_never_read_and_a_file_in_its_place_is(
    path: Path, said: list[str]
) -> None:
    refused = anyio.Event()
    sink = logger.add(lambda _: refused.set(), level="ERROR")
    async with aclosing(follow(path, running(path), environ={}, seconds=SOON)) as reloads:
        remove(path)
        os.mkfifo(path)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:

                async def mend() -> None:
                    await refused.wait()
                    write(path.with_suffix(".new"), FIRST.replace("2", "5"))
                    os.replace(path.with_suffix(".new"), path)

                tasks.start_soon(mend)
                tasks.start_soon(_hang_up_until, refused)
                change = await anext(reloads)
    logger.remove(sink)

    assert change.config.max_power == 5
    assert any("ERROR" in line and "is no file" in line for line in said)


async def _hang_up_until(happened: anyio.Event) -> None:
    while not happened.is_set():
        await anyio.wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.anyio
async def test_a_hangup_has_the_file_read_at_once(path: Path) -> None:
    seen = anyio.Event()
    async with aclosing(watch(path, seconds=3600)) as changes, anyio.create_task_group() as tasks:

        async def first() -> None:
            await anext(changes)
            seen.set()

        tasks.start_soon(first)
        await anyio.wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGHUP)
        with anyio.fail_after(10):
            await seen.wait()


@pytest.mark.anyio
async def test_following_gives_each_usable_change_and_says_what_it_did(path: Path, said: list[str]) -> None:
    async with aclosing(follow(path, running(path), environ={}, seconds=SOON)) as reloads:
        with anyio.fail_after(10):
            write(path, FIRST.replace("2", "3") + "cache_home: /b\n")
            change = await anext(reloads)

    assert change.config.max_power == 3
    assert change.config.cache_home == Path("models")
    assert any("INFO Configuration changed: max_power" in line for line in said)
    assert any("WARNING These changes wait for a restart: cache_home" in line for line in said)


@pytest.mark.anyio
async def test_a_bad_file_keeps_the_old_configuration_and_is_one_error(path: Path, said: list[str]) -> None:
    refused = anyio.Event()
    sink = logger.add(lambda _: refused.set(), level="ERROR")
    changes: list[Reload] = []
    async with aclosing(follow(path, running(path), environ={}, seconds=SOON)) as reloads:

        async def first() -> None:
            changes.append(await anext(reloads))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                write(path, FIRST.replace("2", "many"))
                tasks.start_soon(first)
                await refused.wait()
                assert changes == []
                write(path, FIRST.replace("2", "5"))
    logger.remove(sink)

    assert [change.config.max_power for change in changes] == [5]
    errors = [line for line in said if line.startswith("ERROR")]
    assert len(errors) == 1
    assert "line 3: max_power: 'many'" in errors[0]


@pytest.mark.anyio
async def test_the_environment_goes_on_winning_over_a_changed_file(path: Path) -> None:
    environ = {"AIWORKER_MAX_POWER": "7"}
    config = load_config(path, environ=environ).config
    async with aclosing(follow(path, config, environ=environ, name="N", seconds=SOON)) as reloads:
        with anyio.fail_after(10):
            write(path, FIRST + "max_power2: 1\nnsfw: false\n")
            change = await anext(reloads)

    assert change.config.max_power == 7
    assert "nsfw" in change.applied
