"""Flipped bytes are noticed, and a file is read again only when it looks another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trt_engines.model import BUILT_IN, Model, find_models, read_model
from trt_engines.weights import DigestNotes, damage, sha256_of

WEIGHTS = Path("unet/diffusion_pytorch_model.safetensors")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return read_model(shutil.copytree(BUILT_IN / "shapes-tiny", tmp_path / "model"))


@pytest.fixture
def notes(tmp_path: Path) -> DigestNotes:
    return DigestNotes(tmp_path / "noted" / "digests.json")


def flip(path: Path) -> None:
    """Change one byte in the middle; size and inode stay."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x40]))


def test_every_file_of_weights_that_ships_has_a_digest_and_agrees_with_it(notes: DigestNotes) -> None:
    shipped = find_models()["shapes-tiny"]

    assert set(shipped.digests) == set(shipped.weight_files)
    assert damage(shipped, notes, anew=True) == ""


def test_a_flipped_byte_is_noticed_and_the_file_is_named(model: Model, notes: DigestNotes) -> None:
    assert damage(model, notes) == ""

    flip(model.folder / WEIGHTS)

    assert f"{model.folder / WEIGHTS}: its bytes are not those of the model" in damage(model, notes)


def test_a_byte_that_flips_without_the_files_time_is_noticed_by_reading_anew(model: Model, notes: DigestNotes) -> None:
    damage(model, notes)
    before = (model.folder / WEIGHTS).stat()
    flip(model.folder / WEIGHTS)
    os.utime(model.folder / WEIGHTS, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert damage(model, notes) == ""
    assert "its bytes are not those" in damage(model, notes, anew=True)


def test_a_file_that_looks_the_same_is_not_read_again_not_even_by_the_next_worker(
    model: Model, notes: DigestNotes, tmp_path: Path
) -> None:
    damage(model, notes)
    notes.keep()
    flip_without_time(model.folder / WEIGHTS)

    assert damage(model, DigestNotes(tmp_path / "noted" / "digests.json")) == ""


def replace_by_a_copy(path: Path) -> None:
    shutil.move(shutil.copy2(path, f"{path}.new"), path)


@pytest.mark.parametrize("change", [os.utime, replace_by_a_copy])
def test_a_file_with_another_time_or_inode_is_read_again(
    model: Model, notes: DigestNotes, change: Callable[[Path], object]
) -> None:
    path = model.folder / WEIGHTS
    kept = notes.digest(path)
    flip_without_time(path)
    assert notes.digest(path) == kept

    change(path)

    assert notes.digest(path) == sha256_of(path) != kept


def flip_without_time(path: Path) -> None:
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b'{"a": 1}', b"[" * 10**5, b'{"a": {"size": -1e99}}'])
def test_notes_that_are_damaged_are_taken_for_empty_and_written_anew(model: Model, tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "digests.json"
    file.write_bytes(text)
    notes = DigestNotes(file)

    assert damage(model, notes) == ""
    notes.keep()
    flip_without_time(model.folder / WEIGHTS)
    assert damage(model, DigestNotes(file)) == ""  # it was noted


def test_weights_that_are_gone_are_damage_and_no_traceback(model: Model, notes: DigestNotes) -> None:
    (model.folder / WEIGHTS).unlink()

    assert "cannot be read" in damage(model, notes)


def test_weights_that_were_cut_are_seen_by_their_own_header(model: Model, notes: DigestNotes) -> None:
    whole = (model.folder / WEIGHTS).stat().st_size
    os.truncate(model.folder / WEIGHTS, whole // 2)

    assert f"has {whole // 2} bytes where its header promises {whole}" in damage(model, notes)


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"\x10" + b"\0" * 7 + b"x" * 32, b"\x04" + b"\0" * 7 + b'{"a}'])
def test_weights_whose_header_is_damaged_are_seen(model: Model, notes: DigestNotes, data: bytes) -> None:
    (model.folder / WEIGHTS).write_bytes(data)

    assert str(model.folder / WEIGHTS) in damage(model, notes)
