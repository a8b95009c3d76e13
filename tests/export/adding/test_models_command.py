"""`trt-worker models`, and what a worker starts to add what it finds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trt_engines.news import News, read_news
from trt_export.adding.add import Added
from trt_export.adding.found import Notes, survey
from trt_export.adding.wanted import Wanted
from trt_export.cli import app
from trt_export.models_command import FAILED

Add = Callable[..., Added]
Said = tuple[int, str, dict[str, Any]]


@pytest.fixture
def run(models: Path, graphs: Path, tmp_path: Path) -> Callable[..., Said]:
    """Runs a command of `models` in this process: its exit code, what it said, and what it wrote."""

    def running(*arguments: str | Path, store: bool = False, report: bool = False) -> Said:
        file = tmp_path / "report.json"
        options = ["--models", models]
        options += ["--store", graphs.parent] if store else []
        options += ["--json", file] if report else []
        result = CliRunner().invoke(app, ["models", *map(str, arguments), *map(str, options)])
        return result.exit_code, result.output, json.loads(file.read_bytes()) if file.exists() else {}

    return running


def a_process(*arguments: str | Path, models: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        env=dict(os.environ) | {"TRT_WORKER_MODELS": str(models)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_model_goes_in_is_listed_checked_and_goes_out(
    run: Callable[..., Said], checkpoint: Path, models: Path
) -> None:
    family = ("--architecture", "stable_diffusion_1")

    code, said, written = run("add", checkpoint, "--name", "Mine", *family, store=True, report=True)
    assert (code, written["figures"]["architecture"]) == (0, "stable_diffusion_1"), said
    assert written["figures"]["exported"] == []
    assert f"{checkpoint} is Stable Diffusion 1.5, of F16" in said
    assert "Mine: bind denoiser" in said

    code, said, written = run("list", store=True, report=True)
    assert (code, [one["name"] for one in written["models"]]) == (0, ["Mine", "shapes-tiny"])
    assert "can be run by onnxruntime, pytorch" in said

    assert run("check", "Mine")[:2] == (0, "Mine: sound\n")
    code, said, _ = run("remove", "Mine", "--dry-run")
    assert (code, said.count("would remove")) == (0, 12)
    assert run("remove", "Mine")[0] == 0
    assert not (models / "Mine").exists()
    assert checkpoint.is_dir()


def test_a_model_that_was_removed_is_not_added_by_the_next_start(
    run: Callable[..., Said], add: Add, checkpoint: Path, models: Path
) -> None:
    place = Path(shutil.copytree(checkpoint, models / "diffusers" / "tiny"))
    (place / "model_index.json").write_text("{}")
    add(place)

    assert run("remove", "tiny")[0] == 0
    assert survey(models, [], Notes(models)).new == ()

    assert run("add", place, "--architecture", "stable_diffusion_1", store=True)[0] == 0
    assert run("remove", "tiny", "--dry-run")[0] == 0
    assert not Notes(models).holds(Wanted(path=place))


def test_what_is_wrong_with_a_model_is_the_checks_exit_code(
    run: Callable[..., Said], add: Add, checkpoint: Path
) -> None:
    add(checkpoint)
    shutil.rmtree(checkpoint / "vae")

    code, said, written = run("check", report=True)

    assert (code, written["figures"]) == (FAILED, {"models": 2, "faults": 1})
    assert "not there any more" in said
    assert run("check", "absent")[0] == 2


def test_a_file_of_another_kind_is_refused_at_once_and_in_one_line(tmp_path: Path, models: Path) -> None:
    file = tmp_path / "page.safetensors"
    file.write_text("<html>")

    answer = a_process("trt_worker", "models", "add", file, models=models)

    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith(f"models add: {file} is a web page and no model")
    assert answer.stderr.count("\n") == 1
    assert not models.exists()


def test_what_a_worker_finds_and_cannot_add_is_told_once(models: Path, tmp_path: Path) -> None:
    models.mkdir()
    page, own = models / "page.safetensors", tmp_path / "absent.safetensors"
    page.write_text("<html>")
    custom = json.dumps({"name": "Mine", "baseline": "sdxl", "filepath": str(own)})
    command = ("trt_export", "add-found", "--custom", custom)

    first = a_process(*command, models=models)

    news = [read_news(line.encode()) for line in first.stdout.splitlines()]
    assert [one.failed for one in news if one] == [False, True, False, True], first.stderr
    failures = [one.text for one in news if one and one.failed]
    assert f"Mine is not added, and not tried again before it changes: {own} does not exist" in failures[0]
    assert "is a web page and no model" in failures[1]
    assert a_process(*command, models=models).stdout == ""


def test_lines_of_libraries_are_no_news() -> None:
    news = News(text="It is added.", added="Mine")

    assert read_news(news.line()) == news
    assert read_news(b"UserWarning: something\n") is None
