"""Pickles become safetensors in a process that runs nothing of theirs; those that ask for more are refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from trt_export.checkpoints.legacy import convert_unbound, weights_of
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
from trt_export.cli import app


class Malicious:
    """Runs a command when it is unpickled the ordinary way."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def silent(_step: str, _share: float) -> None:
    """Takes the progress of a conversion."""


def weights() -> dict[str, torch.Tensor]:
    whole = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    return {"a.weight": whole, "turned": whole.T, "half": torch.ones(2, dtype=torch.bfloat16), "one": torch.tensor(3)}


def test_a_checkpoint_becomes_the_same_weights_without_its_training_state(tmp_path: Path) -> None:
    source, target = tmp_path / "v1.ckpt", tmp_path / "v1.safetensors"
    torch.save({"state_dict": weights(), "global_step": 7, "optimizer_states": [{"lr": 0.1}]}, source)

    result = CliRunner().invoke(app, ["convert", str(source), str(target)])

    assert result.exit_code == 0, result.output
    found = load_file(target)
    assert set(found) == set(weights())
    for name, values in weights().items():
        assert torch.equal(found[name], values)
        assert found[name].dtype == values.dtype


def test_a_pickle_that_asks_to_run_a_command_is_refused_and_runs_none(tmp_path: Path) -> None:
    source, target, marker = tmp_path / "bad.ckpt", tmp_path / "bad.safetensors", tmp_path / "ran"
    torch.save({"state_dict": weights(), "extra": Malicious(marker)}, source)

    result = CliRunner().invoke(app, ["convert", str(source), str(target)])

    assert result.exit_code == 1
    assert "asks to run posix.system, which no weights need: it may be malicious" in result.output
    assert not marker.exists()
    assert not target.exists()
    torch.load(source, weights_only=False)
    assert marker.exists(), "the pickle is harmless: the test proves nothing"


@pytest.mark.parametrize("form", ["before zip", "bare"])
def test_a_pickle_of_an_older_form_that_asks_to_run_a_command_is_refused(tmp_path: Path, form: str) -> None:
    source, marker = tmp_path / "old.pt", tmp_path / "ran"
    if form == "bare":
        source.write_bytes(pickle.dumps(Malicious(marker)))
    else:
        torch.save({"state_dict": weights(), "extra": Malicious(marker)}, source, _use_new_zipfile_serialization=False)

    with pytest.raises(UnreadableCheckpoint, match="asks to run posix.system" if form != "bare" else r"old\.pt"):
        convert_unbound(source, tmp_path / "old.safetensors", silent)

    assert not marker.exists()


def test_a_file_of_the_older_form_is_converted(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)

    convert_unbound(tmp_path / "old.pth", tmp_path / "old.safetensors", silent)

    assert torch.equal(load_file(tmp_path / "old.safetensors")["turned"], weights()["turned"])


def test_training_state_of_a_class_that_known_checkpoints_have_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    state = type("ModelCheckpoint", (), {"__module__": name})
    monkeypatch.setattr(module, "ModelCheckpoint", state, raising=False)
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setitem(sys.modules, name, module)
    torch.save({"callbacks": {state: {"best": 1}}, "state_dict": weights()}, tmp_path / "v1.ckpt")

    convert_unbound(tmp_path / "v1.ckpt", tmp_path / "v1.safetensors", silent)

    assert set(load_file(tmp_path / "v1.safetensors")) == set(weights())


def test_a_small_file_that_unfolds_to_very_much_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "bomb.pt")

    with pytest.raises(UnreadableCheckpoint, match=r"would unfold to 4,000\.0 MB of tensors"):
        convert_unbound(tmp_path / "bomb.pt", tmp_path / "bomb.safetensors", silent)

    assert not (tmp_path / "bomb.safetensors").exists()


def test_a_damaged_file_is_named_and_what_was_there_stays(tmp_path: Path) -> None:
    source, target = tmp_path / "cut.pt", tmp_path / "cut.safetensors"
    torch.save(weights(), source)
    source.write_bytes(source.read_bytes()[:-200])
    target.write_bytes(b"before")

    with pytest.raises(UnreadableCheckpoint, match=r"cut\.pt"):
        convert_unbound(source, target, silent)

    assert target.read_bytes() == b"before"


def test_the_process_that_reads_pickles_cannot_take_memory_without_end() -> None:
    greedy = (
        "import mmap; from trt_export.checkpoints.legacy import bound; bound(1 << 20)\n"
        "print(len(mmap.mmap(-1, 1 << 30)))\n"
        "bytearray(8 << 30)"
    )

    result = subprocess.run([sys.executable, "-c", greedy], capture_output=True, text=True, check=False)

    assert result.stdout == f"{1 << 30}\n"
    assert result.stderr.rstrip().endswith("MemoryError")


@pytest.mark.parametrize(
    ("loaded", "reason"),
    [
        ([1, 2], "holds no named tensors but list"),
        ({"state_dict": [1]}, "holds no named tensors but list"),
        ({"epoch": 3}, "holds no named tensors; it has epoch"),
        ({"a": torch.eye(3).to_sparse()}, "'a' is of torch.float32, torch.sparse_coo"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "'a' is of torch.complex64"),
    ],
)
def test_what_is_no_set_of_weights_is_told_as_that(loaded: object, reason: str) -> None:
    with pytest.raises(UnreadableCheckpoint, match=reason):
        weights_of(loaded, Path("x.pt"))
