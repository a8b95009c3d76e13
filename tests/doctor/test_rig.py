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


def a_machine_with_an_nvidia_card(sysfs: Path) -> Path:
    device = sysfs / "bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030000\n")
    return sysfs


def test_a_card_that_no_driver_serves_is_a_fault_with_the_command_that_installs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    findings = list(examine_rig(Config(), {}, a_machine_with_an_nvidia_card(tmp_path / "sys")))

    (driver,) = of(findings, "driver")
    assert (driver.mark, driver.mend) == ("fault", "sudo apt install nvidia-driver")
    assert "1 NVIDIA card(s) that no driver serves" in driver.text
    assert [finding.mark for finding in of(findings, "model")] == ["ok"]  # the processor runs it meanwhile


def test_a_machine_without_a_card_has_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert "fault" not in {finding.mark for finding in examine_rig(Config(), {}, tmp_path)}


def test_a_driver_older_than_the_libraries_need_is_a_fault(nvidia_smi: Callable[..., None], tmp_path: Path) -> None:
    nvidia_smi(RIG.replace("580.95.05", "575.64.03"), 0)

    (driver,) = of(list(examine_rig(Config(), {}, tmp_path)), "driver")

    assert driver.mark == "fault"
    assert "575.64.03 is too old" in driver.text


def test_cards_that_the_environment_hides_are_named_with_the_command_that_shows_them(
    nvidia_smi: Callable[..., None], tmp_path: Path
) -> None:
    nvidia_smi(RIG, 0)

    findings = list(examine_rig(Config(), {"CUDA_VISIBLE_DEVICES": "7"}, tmp_path))

    (hidden,) = of(findings, "cards")
    assert (hidden.mark, hidden.mend) == ("note", "unset CUDA_VISIBLE_DEVICES")
    assert "'7'" in hidden.text
    assert ["processor" in finding.text for finding in of(findings, "device")] == [True]


def test_a_model_that_one_device_runs_and_another_cannot_is_no_fault_and_one_that_none_runs_is(
    nvidia_smi: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(RIG, 0)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    built_only, anything = Config(backends=("tensorrt",)), Config(backends=("tensorrt", "pytorch-gpu"))

    # The Pascal card cannot have TensorRT and gets what it can have; the Ampere card has no engine built.
    both = of(list(examine_rig(built_only.model_copy(update={"gpus": ("0",)}), {}, tmp_path)), "model")
    some = of(list(examine_rig(built_only, {}, tmp_path)), "model")
    none_missing = of(list(examine_rig(anything, {}, tmp_path)), "model")

    assert [(finding.mark, finding.mend) for finding in both] == [("fault", "./horde-bridge.sh build shapes-tiny")]
    assert [finding.mark for finding in some] == ["ok", "note"]
    assert {finding.mark for finding in none_missing} == {"ok"}


def test_a_fault_without_a_command_cannot_be_told() -> None:
    with pytest.raises(ValueError, match="names no command"):
        Finding(mark="fault", what="disk", text="full")
