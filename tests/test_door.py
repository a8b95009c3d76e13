"""`horde-bridge.sh` and the commands behind it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest

ROOT = Path(__file__).parents[1]
DOOR = ROOT / "horde-bridge.sh"
TOOLS = ("bash", "dirname", "readlink", "cat", "sha256sum", "mkdir", "grep", "tail", "env")


def call(
    *arguments: str, folder: Path, door: Path = DOOR, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(door), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def worker(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trt_worker", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.skipif(not (ROOT / ".venv" / "installed[dev]").exists(), reason="not installed through horde-bridge.sh")
def test_the_door_works_from_any_directory_and_keeps_arguments_with_spaces_whole(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "bridge Data.yaml").write_text("api_key: something-long-enough\n")

    answer = call("config", "-n", "Rig with spaces", "-c", "bridge Data.yaml", folder=folder)

    assert answer.returncode == 0, answer.stderr
    assert "dreamer_name: Rig with spaces" in answer.stdout
    assert "something-long-enough" not in answer.stdout + answer.stderr


def test_without_a_fitting_python_the_door_says_what_is_needed(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found
        (tools / tool).symlink_to(found)
    shutil.copy(DOOR, tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "constraints.txt", tmp_path)

    answer = call(folder=tmp_path, door=tmp_path / DOOR.name, environment={"PATH": str(tools)})

    assert answer.returncode == 1
    assert "Python 3.11 or newer" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) <= 2


def test_a_failed_installation_is_one_line_with_the_place_of_its_log(tmp_path: Path) -> None:
    shutil.copy(DOOR, tmp_path)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    (tmp_path / "pyproject.toml").write_text("this is no TOML")

    answer = call(
        "version", folder=tmp_path, door=tmp_path / DOOR.name, environment=dict(os.environ) | {"PYTHON": sys.executable}
    )

    assert answer.returncode == 1
    assert "the installation failed" in answer.stderr
    assert str(tmp_path / "logs" / "install.log") in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("command", ["run", "demo", "bench", "doctor", "config"])
def test_every_command_is_in_the_help(command: str, tmp_path: Path) -> None:
    assert command in worker("--help", folder=tmp_path).stdout


def test_doctor_names_the_fault_and_what_mends_it(tmp_path: Path) -> None:
    answer = worker("doctor", "--json", "figures.json", folder=tmp_path)

    assert answer.returncode == 1
    assert "cp bridgeData_template.yaml bridgeData.yaml" in answer.stdout
    assert "shapes-tiny runs on device 1 with onnxruntime" in answer.stdout
    written = orjson.loads((tmp_path / "figures.json").read_bytes())
    assert set(written) == {"figures", "machine", "commit", "findings"}
    assert written["figures"]["faults"] == 1


def test_a_missing_configuration_is_two_and_says_how_to_make_one(tmp_path: Path) -> None:
    answer = worker("run", folder=tmp_path)

    assert answer.returncode == 2
    assert "bridgeData_template.yaml" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_demo_serves_both_networks_and_checks_every_image(tmp_path: Path) -> None:
    answer = worker("demo", "--jobs", "6", "--json", "figures.json", folder=tmp_path)

    assert answer.returncode == 0, answer.stdout + answer.stderr
    figures = orjson.loads((tmp_path / "figures.json").read_bytes())["figures"]
    assert figures["jobs"] == figures["acked"] == 6
    assert figures["images"] == figures["verified"] == 13
    assert (tmp_path / "logs" / "demo.png").exists()
    assert (tmp_path / "logs" / "bridge_1.log").exists()
