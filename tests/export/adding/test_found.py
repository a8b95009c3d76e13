"""What lies where models do and is none yet is found, once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trt_export.adding.add import Added
from trt_export.adding.found import NOTES, Notes, added_from, survey
from trt_export.adding.wanted import Wanted, looks_of

Add = Callable[..., Added]


def lay(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"weights")


def test_files_and_diffusers_folders_are_found_where_operators_keep_them(models: Path) -> None:
    lay(
        models / "a.safetensors",
        models / "compvis" / "b.ckpt",
        models / "checkpoints" / "c.SAFETENSORS",
        models / "diffusers" / "d" / "model_index.json",
        models / "Stable-diffusion" / "a.safetensors",  # a name that is taken
        models / "compvis" / ".e.safetensors",  # hidden, as of a download
        models / "compvis" / "f.safetensors.part",
        models / "loras" / "g.safetensors",
        models / "h" / "unet" / "model.safetensors",
    )

    found = survey(models, [], Notes(models))

    assert [(one.model, one.path.relative_to(models).as_posix()) for one in found.new] == [
        ("a", "a.safetensors"),
        ("b", "compvis/b.ckpt"),
        ("c", "checkpoints/c.SAFETENSORS"),
        ("d", "diffusers/d"),
    ]
    assert (found.changed, found.gone) == ((), ())


def test_a_name_that_its_owner_gives_goes_before_that_of_the_file(models: Path) -> None:
    lay(models / "a.safetensors", models / "b.safetensors")
    own = Wanted(path=models / "a.safetensors", name="Mine", baseline="stable_diffusion_xl")

    assert [one.model for one in survey(models, [own], Notes(models)).new] == ["Mine", "b"]


def test_what_is_a_model_already_is_not_found_again(add: Add, checkpoint: Path, models: Path) -> None:
    add(checkpoint, name="Mine")
    shutil.copytree(checkpoint, models / "diffusers" / "other")
    lay(models / "diffusers" / "other" / "model_index.json")
    add(models / "diffusers" / "other")

    found = survey(models, [Wanted(path=checkpoint, name="Mine", baseline="stable_diffusion_1")], Notes(models))

    assert (found.new, found.changed, found.gone) == ((), (), ())


def test_a_checkpoint_that_changed_is_to_be_added_anew_as_it_was(add: Add, checkpoint: Path, models: Path) -> None:
    shutil.move(checkpoint / "vae", checkpoint.parent / "vae")
    networks = {"vae": checkpoint.parent / "vae"}
    add(checkpoint, name="Mine", networks=networks)
    wanted = Wanted(path=checkpoint, networks=networks)
    assert added_from(models, wanted) == "Mine"
    file = checkpoint.parent / "vae" / "model.safetensors"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))

    (changed,) = survey(models, [], Notes(models)).changed

    assert (changed.name, changed.path, changed.family) == ("Mine", checkpoint, "stable_diffusion_1")
    assert dict(changed.networks) == networks
    assert added_from(models, wanted) is None
    add(checkpoint, name="Mine", networks=networks)
    assert survey(models, [], Notes(models)).changed == ()


def test_a_checkpoint_that_is_gone_is_named(add: Add, checkpoint: Path, models: Path) -> None:
    add(checkpoint)
    shutil.rmtree(checkpoint)

    found = survey(models, [], Notes(models))

    assert [(one.model, one.path) for one in found.gone] == [("tiny", checkpoint)]
    assert (found.new, found.changed) == ((), ())


def test_what_could_not_be_added_is_tried_again_when_it_has_changed(models: Path) -> None:
    file = models / "a.safetensors"
    lay(file)
    (wanted,) = survey(models, [], Notes(models)).new
    Notes(models).keep(wanted, looks_of(wanted), "is a LoRA")

    assert survey(models, [], Notes(models)).new == ()
    file.write_bytes(b"other weights")
    assert [one.path for one in survey(models, [], Notes(models)).new] == [file]
    Notes(models).keep(wanted, looks_of(wanted), "is a LoRA")
    Notes(models).forget(file)
    assert [one.path for one in survey(models, [], Notes(models)).new] == [file]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', "\0"])
def test_notes_that_cannot_be_read_are_none(models: Path, text: str) -> None:
    lay(models / "a.safetensors")
    (models / NOTES).write_text(text)

    assert len(survey(models, [], Notes(models)).new) == 1


def test_a_checkpoint_of_ones_own_that_is_not_there_is_told_once(models: Path) -> None:
    models.mkdir()
    own = Wanted(path=models / "absent.safetensors", name="Mine", baseline="sdxl")
    assert survey(models, [own], Notes(models)).new == (own,)

    Notes(models).keep(own, looks_of(own), "does not exist")

    assert survey(models, [own], Notes(models)).new == ()
