"""What the doctor says of the machine and its libraries."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trt_worker.doctor import machine
from trt_worker.doctor.machine import LIBRARIES, PACKAGES, examine_libraries, examine_machine


def test_every_library_is_named_with_its_version_or_the_command_that_installs_it() -> None:
    findings = list(examine_libraries())

    assert [finding.what for finding in findings] == list(LIBRARIES)
    for finding in findings:
        missing = finding.text.startswith("not installed")
        wanted = f"{sys.executable} -m pip install {PACKAGES.get(finding.what, finding.what)}" if missing else ""
        assert finding.mend == wanted


def test_the_disk_is_the_one_that_models_will_lie_on(tmp_path: Path) -> None:
    disk = next(finding for finding in examine_machine(tmp_path / "models" / "later") if finding.what == "disk")

    assert str(tmp_path) in disk.text


def test_a_full_disk_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_FREE_GB", 1e9)

    disk = next(finding for finding in examine_machine(tmp_path) if finding.what == "disk")

    assert disk.mark == "fault"
    assert str(tmp_path) in disk.mend
