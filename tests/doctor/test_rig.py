"""What the doctor says of cards, with a stand-in for `nvidia-smi` on the path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trt_engines.store.place import VARIABLE
from trt_worker.config.schema import Config
from trt_worker.doctor.finding import Finding
from trt_worker.doctor.rig import examine_rig

RIG = """0, GPU-aaaa, NVIDIA GeForce RTX 3060, 8.6, 12288, 580.95.05
1, GPU-bbbb, NVIDIA GeForce GTX 1080 Ti, 6.1, 11264, 580.95.05"""


def of(findings: list[Finding], what: str) -> list[Finding]:
    return [finding for finding in findings if finding.what == what]


def test_every_card_is_named_with_what_computes_on_it_and_why(nvidia_smi: Callable[..., None]) -> None:
    nvidia_smi(RIG, 0)

    findings = list(examine_rig(Config(), {}))

    assert [finding.text for finding in of(findings, "driver")] == ["580.95.05"]
    assert [finding.mark for finding in of(findings, "card")] == ["ok", "ok"]
    ampere, pascal = of(findings, "device")
    assert (ampere.mark, pascal.mark) == ("ok", "note")
    assert "SM86" in ampere.text
    assert "older than Turing" in pascal.text
    assert {finding.text.split(" with ")[0] for finding in of(findings, "model")} == {
        "shapes-tiny runs on device 1",
        "shapes-tiny runs on device 2",
    }


def test_a_model_that_was_not_built_for_a_card_comes_with_the_command_that_builds_it(
    nvidia_smi: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(RIG, 0)
    monkeypatch.setenv(VARIABLE, str(tmp_path))

    ampere, pascal = of(list(examine_rig(Config(), {})), "model")

    assert "tensorrt-rtx: no tensorrt-rtx engine of shapes-tiny/text_encoder was built: " in ampere.text
    assert "./horde-bridge.sh build shapes-tiny" in ampere.text
    assert "tensorrt" not in pascal.text


def test_a_broken_driver_is_a_fault_with_a_command(nvidia_smi: Callable[..., None]) -> None:
    nvidia_smi("Failed to initialize NVML: Driver/library version mismatch", 18)

    (finding,) = examine_rig(Config(), {})

    assert (finding.mark, finding.what, finding.mend) == ("fault", "driver", "sudo reboot")


def test_a_card_in_the_configuration_that_is_not_there_is_a_fault(nvidia_smi: Callable[..., None]) -> None:
    nvidia_smi(RIG, 0)

    (finding,) = examine_rig(Config(gpus=("7",)), {})

    assert finding.mark == "fault"
    assert "'7'" in finding.text
    assert finding.mend == "nvidia-smi -L"
