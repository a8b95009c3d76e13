"""Models whose networks lie in several places."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from trt_engines.errors import ModelUnusable
from trt_export.building.located import fingerprint, known_models, locate
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint, encode_header
from trt_export.options import named_networks


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A denoiser's file and a text encoder's."""
    found = tmp_path / "model.safetensors", tmp_path / "t5xxl.safetensors"
    for file in found:
        file.write_bytes(encode_header({}))
    return found


def test_a_change_of_a_network_that_lies_elsewhere_is_a_change_of_the_model(files: tuple[Path, Path]) -> None:
    model, encoder = files
    located = locate(str(model), networks=(("text_encoder", encoder),))
    before = fingerprint(located)

    encoder.write_bytes(encode_header({"weight": ("F16", (1,))}) + b"00")

    assert fingerprint(located) != before
    assert fingerprint(locate(str(model))) != before


def test_a_network_that_is_not_there_is_named(files: tuple[Path, Path]) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"absent\.safetensors, where the vae should be, does not exist"):
        locate(str(files[0]), networks=(("vae", files[0].with_name("absent.safetensors")),))


def test_a_model_folder_that_cannot_be_used_keeps_no_other_from_being_found_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.json").write_text("{")
    told: list[ModelUnusable] = []

    assert locate("shapes-tiny", tmp_path).name == "shapes-tiny"
    assert [model.name for model in known_models(tmp_path, told.append)] == ["shapes-tiny"]
    assert "model.json" in str(told[0])
    with pytest.raises(UnreadableCheckpoint, match=r"passed over was .*broken/model\.json"):
        locate("broken", Path(tmp_path))


def test_networks_are_given_by_name_and_path() -> None:
    assert named_networks(["vae=/models/ae=1.safetensors"], ["model"]) == (("vae", Path("/models/ae=1.safetensors")),)
    assert named_networks(None, None) == ()


@pytest.mark.parametrize(
    ("options", "models", "said"),
    [
        (["vae"], ["model"], "'vae' is not NAME=PATH"),
        (["=path"], ["model"], "is not NAME=PATH"),
        (["vae=path"], ["one", "other"], "belongs to one model"),
        (["vae=path"], None, "belongs to one model"),
    ],
)
def test_what_cannot_be_meant_is_told(options: list[str], models: list[str] | None, said: str) -> None:
    with pytest.raises(typer.BadParameter, match=said):
        named_networks(options, models)
