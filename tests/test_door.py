"""`horde-bridge.sh` and the commands behind it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

ROOT = Path(__file__).parents[1]
DOOR = ROOT / "horde-bridge.sh"
TOOLS = ("bash", "dirname", "readlink", "cat", "sha256sum", "mkdir", "grep", "tail", "env")

PYTHON = """#!/usr/bin/env bash
# Stands in for Python: writes down what it is asked, makes environments of itself, and installs as $OUTCOME says.
printf '%s' "$(basename -- "$(dirname -- "$(dirname -- "$0")")") " >>"$CALLS"
printf '<%s>' "$@" >>"$CALLS"
printf '\\n' >>"$CALLS"
[[ $1 == -P ]] && shift
case "$1 $2" in
    "-m venv")
        target=${!#}
        [[ $3 == --clear ]] && rm -rf -- "$target"
        mkdir -p -- "$target/bin"
        cp -- "$0" "$target/bin/python"
        ;;
    "-m pip")
        case ${OUTCOME:-} in
            interrupted) kill -TERM "$PPID"; sleep 0.1; exit 1 ;;
            failed) printf 'Collecting\\nERROR: No matching distribution found for everything\\n\\n'; exit 1 ;;
            offline)
                printf 'WARNING: Retrying after connection broken by NewConnectionError\\n'
                printf '  error: subprocess-exited-with-error\\n  note: not a problem with pip\\n'
                exit 1 ;;
            unbuildable)
                printf '      OSError: Readme file does not exist\\nerror: metadata-generation-failed\\n\\n'
                exit 1 ;;
            full) exit 1 ;; # not even the log can be written
        esac
        ;;
    "-m trt_worker") printf 'home %s\\n' "$TRT_WORKER_HOME" ;;
esac
"""


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


@dataclass(frozen=True)
class House:
    """A copy of the door with a stand-in for Python behind it."""

    door: Path
    calls: Path
    elsewhere: Path

    def call(self, *arguments: str, outcome: str = "") -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ) | {
            "PYTHON": str(self.door.parent / "python"),
            "CALLS": str(self.calls),
            "OUTCOME": outcome,
            "PATH": f"{self.door.parent / 'tools'}:{os.environ['PATH']}",
        }
        return call(*arguments, folder=self.elsewhere, door=self.door, environment=environment)

    def asked(self, what: str) -> list[str]:
        """The calls of one module so far."""
        return [line for line in self.calls.read_text().splitlines() if f"<-m><{what}>" in line]


@pytest.fixture
def house(tmp_path: Path) -> House:
    folder, elsewhere = tmp_path / "a house", tmp_path / "some where"
    folder.mkdir()
    elsewhere.mkdir()
    for name in (DOOR.name, "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    python = folder / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return House(folder / DOOR.name, tmp_path / "calls", elsewhere)


def test_the_door_passes_arguments_with_spaces_on_whole_from_any_directory(house: House) -> None:
    answer = house.call("run", "-n", "Instance 1", "-c", "my file.yaml")

    assert answer.returncode == 0, answer.stderr
    assert f"home {house.door.parent}" in answer.stdout
    assert house.asked("trt_worker")[-1].endswith("<-m><trt_worker><run><-n><Instance 1><-c><my file.yaml>")


def test_it_installs_once_and_again_only_when_what_is_asked_for_changes(house: House) -> None:
    for _ in range(2):
        assert house.call("version").returncode == 0
    assert len(house.asked("pip")) == 1

    constraints = house.door.parent / "constraints.txt"
    constraints.write_text(constraints.read_text() + "# another line\n")

    assert house.call("version").returncode == 0
    assert len(house.asked("pip")) == 2


def test_nothing_is_imported_from_the_directory_that_it_is_called_from(house: House) -> None:
    assert house.call("version").returncode == 0

    asked = [*house.asked("venv"), *house.asked("pip"), *house.asked("trt_worker")]
    assert len(asked) == 3
    assert all("<-P><-m>" in call for call in asked)


def test_a_folder_with_brackets_and_umlauts_is_none_that_pip_has_to_read(house: House) -> None:
    odd = house.door.parent.rename(house.door.parent.with_name("rig [x] \u00fc"))
    house = House(odd / DOOR.name, house.calls, house.elsewhere)

    assert house.call("version").returncode == 0, house.call("version").stderr
    assert "<-c><constraints.txt><-e><.>" in house.asked("pip")[0]


def test_a_folder_with_a_colon_is_one_clear_line(house: House) -> None:
    odd = house.door.parent.rename(house.door.parent.with_name("a:b"))

    answer = House(odd / DOOR.name, house.calls, house.elsewhere).call("version")

    assert answer.returncode == 1
    assert "has a colon in its name" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("offline", "the package index cannot be reached"),
        ("unbuildable", "OSError: Readme file does not exist"),
        ("full", "the disk is full: 3 MB are free"),
    ],
)
def test_the_cause_of_a_failed_installation_is_told_rather_than_its_last_line(
    house: House, outcome: str, said: str
) -> None:
    free = 3 if outcome == "full" else 90_000
    (house.door.parent / "tools").mkdir()
    df = house.door.parent / "tools" / "df"
    df.write_text(f"#!/bin/sh\nprintf 'Filesystem 1M-blocks Used Available\\ndisk 9 9 {free}\\n'\n")
    df.chmod(0o755)

    answer = house.call("version", outcome=outcome)

    assert answer.returncode == 1
    assert f"the installation failed: {said}" in answer.stderr


@pytest.mark.parametrize("outcome", ["interrupted", "failed"])
def test_an_installation_that_did_not_end_well_is_one_line_and_done_over_by_the_next_run(
    house: House, outcome: str
) -> None:
    assert house.call("version").returncode == 0
    leftover = house.door.parent / ".venv" / "half-installed"
    constraints = house.door.parent / "constraints.txt"
    before = constraints.read_text()
    constraints.write_text(before + "# another line\n")

    broken = house.call("version", outcome=outcome)
    leftover.touch()
    constraints.write_text(before)  # also when the old state is wanted back
    mended = house.call("version")

    assert broken.returncode == 1
    assert outcome in broken.stderr.splitlines()[-1]
    assert outcome == "interrupted" or "No matching distribution" in broken.stderr.splitlines()[-1]
    assert mended.returncode == 0, mended.stderr
    assert not leftover.exists()


def test_an_environment_whose_python_is_gone_is_made_anew(house: House) -> None:
    assert house.call("version").returncode == 0
    (house.door.parent / ".venv" / "bin" / "python").unlink()

    assert house.call("version").returncode == 0
    assert len(house.asked("pip")) == 2


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
    assert figures["occupancy"] >= 1
    assert (tmp_path / "logs" / "demo.png").exists()
    assert (tmp_path / "logs" / "demo" / "bridge_1.log").exists()


def test_what_drives_a_card_is_installed_for_everybody_in_versions_that_pytorch_of_a_card_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {one.partition(">=")[0] for one in project["dependencies"]}
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())

    assert {"cuda-core", "cuda-python", "nvidia-cuda-nvrtc", "tensorrt-rtx"} <= names
    # PyTorch without a card asks for no CUDA; PyPI's asks for cuda-toolkit 13.0.3, and that for this NVRTC.
    assert (pins["torch"], pins["nvidia-cuda-nvrtc"]) == ("2.13.0", "13.0.88")
