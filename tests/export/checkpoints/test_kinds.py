"""What is no checkpoint is told by how it begins, and by the names of its tensors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from trt_export.checkpoints.kinds import kind_of, refuse_other_kinds
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint, encode_header, read_header

Holes = Callable[..., None]

OTHERS: dict[str, Sequence[str]] = {
    "a LoRA": (
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight",
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
    ),
    "a LoRA: it": ("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight",),
    "a ControlNet": ("control_model.input_hint_block.0.weight", "control_model.input_blocks.0.0.weight"),
    "a ControlNet: it": ("controlnet_cond_embedding.conv_in.weight", "conv_in.weight", "down_blocks.0.resnets.0.x"),
    "an IP adapter": ("image_proj.norm.weight", "ip_adapter.1.to_k_ip.weight"),
    "a textual inversion": ("emb_params",),
    "an upscaler": ("conv_first.weight", "body.0.rdb1.conv1.weight", "conv_last.weight"),
    "an autoencoder .VAE. alone: name it with --network vae=FILE": (
        "encoder.conv_in.weight",
        "decoder.conv_in.weight",
        "decoder.mid.block_1.norm1.weight",
        "quant_conv.weight",
    ),
    "a text encoder alone: name it with --network text_encoder=FILE": (
        "text_model.embeddings.token_embedding.weight",
        "text_model.encoder.layers.0.self_attn.q_proj.weight",
    ),
}
WHOLE: Sequence[Sequence[str]] = (
    ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight"),
    ("conv_in.weight", "down_blocks.0.attentions.0.norm.weight"),  # a denoiser alone: its other networks are asked for
)


def a_file(folder: Path, names: Sequence[str], holes: Holes) -> Path:
    file = folder / "model.safetensors"
    holes(file, dict.fromkeys(names, ("F16", (4,))))
    return file


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_of_another_kind_is_told_by_its_names(kind: str, tmp_path: Path, file_with_holes: Holes) -> None:
    file = a_file(tmp_path, OTHERS[kind], file_with_holes)

    with pytest.raises(UnreadableCheckpoint, match=f"model.safetensors is {kind}"):
        refuse_other_kinds(file)


@pytest.mark.parametrize("names", WHOLE)
def test_a_file_with_a_denoiser_may_be_a_checkpoint(
    names: Sequence[str], tmp_path: Path, file_with_holes: Holes
) -> None:
    file = a_file(tmp_path, names, file_with_holes)

    refuse_other_kinds(file)

    assert kind_of(read_header(file)) is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "is a web page and no model"),
        (b"\xef\xbb\xbf\r\n <html>", "is a web page and no model"),
        (b'{"error": "Unauthorized"}', "is a message of a server and no model"),
        (b"GGUF\x03\x00\x00\x00" + bytes(100), "is a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        (b"PK\x03\x04\x00\x00\x08\x08" + bytes(100), "is a pickle or an archive under another name"),
        (b"\x80\x02}q\x00X\x01", "is a pickle or an archive under another name"),
        (b"", "is empty: download it again"),
        (encode_header({"a": ("F32", (1000,))}) + bytes(100), "ends 3900 bytes after the file does"),
        (encode_header({"a": ("F32", (1000,))})[:40], "is cut off"),
    ],
)
def test_a_file_that_is_no_safetensors_file_says_what_it_is(tmp_path: Path, data: bytes, said: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)

    with pytest.raises(UnreadableCheckpoint, match=said):
        refuse_other_kinds(file)


@pytest.mark.parametrize("length", [0x0280, 0x3C20, 0x7B20])
def test_a_header_whose_length_looks_like_text_is_read_all_the_same(tmp_path: Path, length: int) -> None:
    """640 begins like a pickle, 15392 like a page behind a space, 31520 like a message behind one."""
    file = tmp_path / "model.safetensors"
    header = encode_header({"conv_in.weight": ("F16", (4,))})
    padded = header[8:].ljust(length)
    file.write_bytes(length.to_bytes(8, "little") + padded + bytes(8))

    refuse_other_kinds(file)

    assert kind_of(read_header(file)) is None


def test_other_kinds_are_told_without_pytorch() -> None:
    code = "import sys, trt_export.checkpoints.kinds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
