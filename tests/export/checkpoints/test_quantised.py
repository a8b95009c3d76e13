"""Ways to store weights that no graph reads are called by their names, and what to take is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_engines.architectures.registry import ARCHITECTURES
from trt_export.checkpoints.published import published_file
from trt_export.checkpoints.quantised import quantisation, refusal
from trt_export.checkpoints.safetensors_file import StoredTensor, Values, encode, read_header


def tensors(**types: str) -> dict[str, StoredTensor]:
    """One layer `l` of these tensors: of a type each."""
    return {
        name.replace("__", "."): StoredTensor(
            file=Path("m.safetensors"), name=name, dtype=dtype, shape=(1,), offset=0, length=1
        )
        for name, dtype in types.items()
    }


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (tensors(l__weight="U8") | tensors(l__weight__quant_state__bitsandbytes="U8"), "a packed form (U8)"),
        (tensors(l__weight="U8", l__weight_scale="F8_E4M3", l__weight_scale_2="F32"), "NVFP4"),
        (tensors(l__weight="F4", l__weight_scale="F8_E4M3"), "NVFP4"),
        (tensors(l__weight="F8_E4M3", l__weight_scale="F8_E8M0"), "MXFP8"),
        (tensors(l__weight="U8", l__weight_scale="F8_E8M0"), "MXFP4"),
        (tensors(l__weight="I8", l__weight_scale="F32"), "int8"),
        (tensors(l__qweight="I32", l__qzeros="I32"), "GPTQ or AWQ"),
        (tensors(l__qweight="I8", l__wscales="BF16"), "SVDQuant (Nunchaku)"),
        (tensors(l__weight="F8_E5M2"), "float8 e5m2"),
        (tensors(l__weight="F8_E4M3", l__weight_scale="F32", l__comfy_quant="U8"), None),
        (tensors(l__weight="BF16", l__position_ids="I64"), None),
    ],
)
def test_a_kind_is_told_by_what_only_it_has(layer: dict[str, StoredTensor], kind: str | None) -> None:
    assert quantisation(layer) == kind


def test_a_note_says_that_values_were_turned_before_they_were_rounded(tmp_path: Path) -> None:
    note = b'{"format": "int8_tensorwise", "convrot": true}'
    stored = {
        "l.weight": Values(dtype="I8", shape=(2,), data=b"12"),
        "l.comfy_quant": Values(dtype="U8", shape=(len(note),), data=note),
    }
    (tmp_path / "m.safetensors").write_bytes(b"".join(encode(stored)))

    assert quantisation(read_header(tmp_path / "m.safetensors")) == "int8 (ConvRot)"


def test_a_refusal_names_the_file_the_kind_and_what_to_take() -> None:
    said = refusal("NVFP4", "the denoiser of sdxl", tensors(l__weight="U8"), "somebody/sdxl: sd_xl.safetensors")

    assert said.startswith("m.safetensors: the weights of the denoiser of sdxl are stored as NVFP4")
    assert said.endswith("take the float8 e4m3 or the bf16 file: somebody/sdxl: sd_xl.safetensors")


@pytest.mark.parametrize("name", [one.name for one in ARCHITECTURES if "inpainting" not in one.name])
def test_every_architectures_denoiser_is_published_somewhere(name: str) -> None:
    assert ".safetensors" in str(published_file(name, "denoiser"))
