"""What `doctor` says of model folders and their weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from trt_engines.model import BUILT_IN
from trt_worker.config.schema import Config
from trt_worker.doctor.models import examine_models


@pytest.fixture
def config(tmp_path: Path) -> Config:
    shutil.copytree(BUILT_IN / "shapes-tiny", tmp_path / "models" / "copy")
    return Config(cache_home=tmp_path / "models", log_dir=tmp_path / "logs")


def flip(config: Config) -> Path:
    """Change one byte of weights without changing the file's time."""
    path = config.cache_home / "copy" / "vae" / "diffusion_pytorch_model.safetensors"
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return path


def test_every_model_folder_that_cannot_be_used_is_a_fault_with_a_command(config: Config) -> None:
    for name in ("one", "two"):
        (config.cache_home / name).mkdir()
        (config.cache_home / name / "model.json").write_text("{")

    faults = [finding for finding in examine_models(config) if finding.mark == "fault"]

    assert [finding.mend for finding in faults] == [f"ls -lR {config.cache_home}"] * 2
    assert all("model.json" in finding.text for finding in faults)


def test_a_byte_that_flipped_unseen_is_found_by_reading_the_weights(config: Config) -> None:
    assert {finding.mark for finding in examine_models(config, read_weights=True)} == {"ok"}
    path = flip(config)

    (unseen,) = examine_models(config)
    (found,) = examine_models(config, read_weights=True)

    assert unseen.mark == "ok"
    assert (found.mark, str(path) in found.text) == ("fault", True)
    (kept,) = examine_models(config)
    assert kept.mark == "fault"  # what was read is noted, for the next start too


def test_notes_that_cannot_be_written_are_told(config: Config) -> None:
    config.log_dir.write_text("no folder")

    assert [finding.mark for finding in examine_models(config, read_weights=True)] == ["ok", "note"]
