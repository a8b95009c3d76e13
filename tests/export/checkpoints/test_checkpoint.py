"""One file, a folder, or a file for each network: every network's tensors are found, or it is said why not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from trt_export.checkpoints.checkpoint import open_checkpoint
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint


def a_file(file: Path, names: Sequence[str] = ("a",)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ones(2, np.float32) for name in names}, file)
    return file


def an_index(folder: Path, places: object, name: str = "model.safetensors.index.json") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_a_single_file_has_the_tensors_of_every_network(tmp_path: Path) -> None:
    file = a_file(tmp_path / "all.safetensors", ("model.diffusion_model.x", "first_stage_model.y"))

    checkpoint = open_checkpoint(file)

    assert set(checkpoint.of("denoiser")) == {"model.diffusion_model.x", "first_stage_model.y"}
    assert checkpoint.of("vae_decoder") is checkpoint.of("denoiser")
    assert checkpoint.files == (file,)


def test_a_diffusers_folder_has_each_network_in_its_own(tmp_path: Path) -> None:
    a_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", ("conv_in.weight",))
    a_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", ("conv_in.weight", "decoder.x"))
    a_file(tmp_path / "safety_checker" / "model.safetensors", ("conv_in.weight",))

    checkpoint = open_checkpoint(tmp_path)

    assert set(checkpoint.of("denoiser")) == {"conv_in.weight"}
    assert checkpoint.of("vae_encoder")["conv_in.weight"].file.parent.name == "vae"
    assert len(checkpoint.files) == 2
    with pytest.raises(UnreadableCheckpoint, match=r"nothing for the text_encoder: .* it has unet, vae"):
        checkpoint.of("text_encoder")


def test_single_files_beside_the_folders_of_networks_are_left_alone(tmp_path: Path) -> None:
    unet = a_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    a_file(tmp_path / "v1-5-pruned.safetensors")
    a_file(tmp_path / "v1-5-pruned-emaonly.safetensors")

    assert open_checkpoint(tmp_path).files == (unet,)


def test_of_several_precisions_beside_each_other_the_plain_one_counts(tmp_path: Path) -> None:
    a_file(tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    plain = a_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    half = a_file(tmp_path / "vae" / "diffusion_pytorch_model.fp16.safetensors")

    checkpoint = open_checkpoint(tmp_path)

    assert checkpoint.files == (plain, half)


def test_two_variants_without_a_plain_one_are_a_question(tmp_path: Path) -> None:
    for variant in ("fp16", "ema"):
        a_file(tmp_path / "unet" / f"model.{variant}.safetensors")

    with pytest.raises(UnreadableCheckpoint, match=r"several times \(model.ema.safetensors, model.fp16.safetensors\)"):
        open_checkpoint(tmp_path)


def test_a_network_in_several_files_is_read_by_its_index_and_nothing_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    a_file(folder / "model-00001-of-00002.safetensors", ("a", "b"))
    a_file(folder / "model-00002-of-00002.safetensors", ("c",))
    a_file(folder / "model.fp16.safetensors", ("d",))
    an_index(
        folder, dict.fromkeys("ab", "model-00001-of-00002.safetensors") | {"c": "model-00002-of-00002.safetensors"}
    )

    tensors = open_checkpoint(tmp_path).of("denoiser")

    assert {name: one.file.name[:11] for name, one in tensors.items()} == {
        "a": "model-00001",
        "b": "model-00001",
        "c": "model-00002",
    }


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        ({"a": "one.safetensors", "b": "two.safetensors"}, r"names two.safetensors, which is not there: get that file"),
        ({"a": "../one.safetensors"}, "outside of its folder"),
        (["a"], "is no index of safetensors files"),
    ],
)
def test_an_index_that_lies_is_told_as_that(tmp_path: Path, places: object, reason: str) -> None:
    a_file(tmp_path / "unet" / "one.safetensors")
    an_index(tmp_path / "unet", places)

    with pytest.raises(UnreadableCheckpoint, match=reason):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("pytorch_model.bin.index.json", {"a": "pytorch_model-00001-of-00002.bin"}),
        ("diffusion_pytorch_model.bin.index.json", {"a": "one.safetensors"}),
        ("model.safetensors.index.json", {"a": "model-00001-of-00002.safetensors"}),
        ("model.safetensors.index.json", {"a": "one.safetensors", "gone": "one.safetensors"}),
    ],
)
def test_an_index_of_pickles_or_of_files_that_were_replaced_is_no_harm(
    tmp_path: Path, name: str, places: object
) -> None:
    a_file(tmp_path / "unet" / "one.safetensors", ("a", "b"))
    an_index(tmp_path / "unet", places, name)

    assert set(open_checkpoint(tmp_path).of("denoiser")) == {"a", "b"}


@pytest.mark.parametrize("name", ["Model.SAFETENSORS", "model.Sft"])
def test_endings_are_known_in_capitals_too(tmp_path: Path, name: str) -> None:
    file = a_file(tmp_path / "all" / name)

    assert open_checkpoint(file).files == open_checkpoint(file.parent).files == (file,)
    with pytest.raises(UnreadableCheckpoint, match="is a pickle"):
        open_checkpoint(tmp_path / "Model.CKPT")


@pytest.mark.parametrize("root", [".", "split_files"])
def test_a_repository_for_comfyui_has_a_folder_for_each_kind_of_network(tmp_path: Path, root: str) -> None:
    a_file(tmp_path / root / "diffusion_models" / "flux1-dev.safetensors", ("img_in.weight",))
    a_file(tmp_path / root / "text_encoders" / "clip_l.safetensors", ("text_model.x",))
    a_file(tmp_path / root / "text_encoders" / "t5xxl_fp16.safetensors", ("shared.weight",))
    a_file(tmp_path / root / "vae" / "ae.safetensors", ("decoder.x",))

    checkpoint = open_checkpoint(tmp_path)

    assert set(checkpoint.of("denoiser")) == {"img_in.weight"}
    assert set(checkpoint.of("text_encoder")) == set(checkpoint.of("text_encoder_2"))
    assert set(checkpoint.of("vae_encoder")) == {"decoder.x"}


def test_a_folder_of_several_models_is_not_read_where_the_one_is_named(tmp_path: Path) -> None:
    chosen = a_file(tmp_path / "diffusion_models" / "klein.safetensors", ("img_in.weight",))
    a_file(tmp_path / "diffusion_models" / "klein-fp8.safetensors", ("img_in.weight",))
    a_file(tmp_path / "vae" / "ae.safetensors", ("decoder.x",))

    with pytest.raises(UnreadableCheckpoint, match=r"both have 'img_in\.weight': a folder of several models is none"):
        open_checkpoint(tmp_path)
    checkpoint = open_checkpoint(tmp_path, {"denoiser": chosen})
    assert checkpoint.of("denoiser")["img_in.weight"].file == chosen
    assert checkpoint.place_of("vae_decoder") == tmp_path / "vae"


def test_networks_in_files_of_their_own_are_named_or_lie_together(tmp_path: Path) -> None:
    denoiser = a_file(tmp_path / "m" / "flux.safetensors", ("double_blocks.0.x",))
    text = a_file(tmp_path / "t5.safetensors", ("shared.weight",))
    vae = a_file(tmp_path / "ae.safetensors", ("decoder.x",))

    named = open_checkpoint(denoiser, {"text_encoder_2": text, "vae": vae})
    together = open_checkpoint(tmp_path)

    assert set(named.of("denoiser")) == {"double_blocks.0.x"}
    assert set(named.of("text_encoder_2")) == {"shared.weight"}
    assert set(named.of("vae_decoder")) == set(named.of("vae_encoder")) == {"decoder.x"}
    assert set(together.of("denoiser")) == {"shared.weight", "decoder.x"}


def test_two_models_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    a_file(tmp_path / "one.safetensors")
    a_file(tmp_path / "two.safetensors")

    with pytest.raises(UnreadableCheckpoint, match=r"one.safetensors and .*two.safetensors both have 'a'"):
        open_checkpoint(tmp_path)


def test_a_sign_that_both_files_carry_is_no_reason_to_take_them_for_two_models(tmp_path: Path) -> None:
    a_file(tmp_path / "krea2_turbo_fp8.safetensors", ("blocks.0.x", "scaled_fp8"))
    a_file(tmp_path / "qwen3vl_4b_fp8_scaled.safetensors", ("model.layers.0.x", "scaled_fp8"))

    assert set(open_checkpoint(tmp_path).of("denoiser")) == {"blocks.0.x", "model.layers.0.x", "scaled_fp8"}


def test_a_network_that_no_architecture_has_is_refused(tmp_path: Path) -> None:
    file = a_file(tmp_path / "a.safetensors")

    with pytest.raises(UnreadableCheckpoint, match=r"given for 'lora'; networks are decoder, denoiser"):
        open_checkpoint(file, {"lora": file})


@pytest.mark.parametrize("name", ["v1-5.ckpt", "my model.pt", "x.pth", "unet/diffusion_pytorch_model.bin"])
def test_a_pickle_is_refused_with_the_reason_and_the_command(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"never read")
    given = tmp_path if name.startswith("unet") else file

    with pytest.raises(UnreadableCheckpoint, match="runs code from whoever made it") as caught:
        open_checkpoint(given)

    quoted = f"'{file}'" if " " in name else str(file)
    assert f"python -m trt_export convert {quoted} " in str(caught.value)


@pytest.mark.parametrize("name", ["model.gguf", "model", "absent.safetensors"])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    if name != "absent.safetensors":
        (tmp_path / name).write_bytes(b"GGUF")

    with pytest.raises(UnreadableCheckpoint, match=name):
        open_checkpoint(tmp_path / name)


def test_an_empty_folder_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"holds no \.safetensors file of a network"):
        open_checkpoint(tmp_path)
