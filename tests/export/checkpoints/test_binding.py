"""Weights are found where a checkpoint has them, and copied only where nothing else will do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from trt_engines.bound_weights import BoundTensor, Piece
from trt_export.checkpoints.binding import StoredWeights, WeightsMissing, bind, check
from trt_export.checkpoints.keymap import Change, Entry, KeyMap
from trt_export.checkpoints.safetensors_file import StoredTensor, Values, encode, read_header

TABLE = KeyMap(
    layout="original",
    prefixes=("net.", ""),
    entries=(
        Entry(stored="blocks.{}.qkv.weight", library=("l.{}.q.weight", "l.{}.k.weight", "l.{}.v.weight")),
        Entry(stored="out.weight", library=("final.weight",)),
        Entry(stored="projection", library=("project.weight",), change=Change.TRANSPOSED),
        Entry(stored="shift", library=("scale_shift",), change=Change.HALVES_SWAPPED),
        Entry(stored="table", library=("modulation",), change=Change.FLATTENED),
        Entry(stored="tokens.weight", library=("tokens.weight",)),
        Entry(stored="words.weight", library=("words.weight",)),
    ),
    tied=(("tokens.weight", "words.weight"),),
)


def _values(piece: Piece, dtype: type[np.generic]) -> np.ndarray:
    data = piece.file.read_bytes()[piece.offset : piece.offset + piece.length]
    return np.frombuffer(data, dtype)


def _saved(tmp_path: Path, tensors: Mapping[str, np.ndarray]) -> Mapping[str, StoredTensor]:
    save_file(dict(tensors), tmp_path / "model.safetensors")
    return read_header(tmp_path / "model.safetensors")


def _bind(
    tmp_path: Path, tensors: Mapping[str, StoredTensor], parameters: Mapping[str, tuple[int, ...]]
) -> dict[str, BoundTensor]:
    wanted = {f"model.{name}": shape for name, shape in parameters.items()}
    return {one.name: one for one in bind(wanted, tensors, (TABLE,), tmp_path / "side.safetensors")}


def test_a_fused_weight_is_bound_as_byte_ranges_of_its_parts_even_of_unequal_ones(tmp_path: Path) -> None:
    fused = np.arange(24, dtype=np.float32).reshape(8, 3)
    tensors = _saved(tmp_path, {"net.blocks.1.qkv.weight": fused})

    bound = _bind(tmp_path, tensors, {"l.1.q.weight": (4, 3), "l.1.k.weight": (2, 3), "l.1.v.weight": (2, 3)})

    assert [bound[f"model.l.1.{part}.weight"].shape for part in "qkv"] == [(4, 3), (2, 3), (2, 3)]
    for part, rows in (("q", fused[:4]), ("k", fused[4:6]), ("v", fused[6:])):
        (piece,) = bound[f"model.l.1.{part}.weight"].pieces
        assert (_values(piece, np.float32) == rows.ravel()).all()
        assert piece.file == tmp_path / "model.safetensors"
    assert not (tmp_path / "side.safetensors").exists()


def test_a_fused_part_that_the_graph_does_not_read_is_stepped_over(tmp_path: Path) -> None:
    fused = np.arange(24, dtype=np.float32).reshape(8, 3)
    tensors = _saved(tmp_path, {"net.blocks.1.qkv.weight": fused})

    bound = _bind(tmp_path, tensors, {"l.1.q.weight": (4, 3), "l.1.v.weight": (2, 3)})

    assert (_values(bound["model.l.1.v.weight"].pieces[0], np.float32) == fused[6:].ravel()).all()


def test_a_transposed_weight_is_turned_in_the_side_file(tmp_path: Path) -> None:
    stored = np.arange(6, dtype=np.float16).reshape(2, 3)
    tensors = _saved(tmp_path, {"projection": stored})

    bound = _bind(tmp_path, tensors, {"project.weight": (3, 2)})["model.project.weight"]

    assert bound.pieces[0].file == tmp_path / "side.safetensors"
    assert (_values(bound.pieces[0], np.float16) == stored.T.ravel()).all()


def test_swapped_halves_are_two_ranges_in_the_librarys_order(tmp_path: Path) -> None:
    stored = np.arange(8, dtype=np.float32).reshape(4, 2)
    tensors = _saved(tmp_path, {"shift": stored})

    bound = _bind(tmp_path, tensors, {"scale_shift": (4, 2)})["model.scale_shift"]

    assert [list(_values(piece, np.float32)) for piece in bound.pieces] == [[4, 5, 6, 7], [0, 1, 2, 3]]


def test_a_linear_layer_stored_as_a_convolution_of_one_by_one_is_bound_as_it_lies(tmp_path: Path) -> None:
    tensors = _saved(tmp_path, {"out.weight": np.ones((4, 3, 1, 1), np.float32)})

    assert _bind(tmp_path, tensors, {"final.weight": (4, 3)})["model.final.weight"].shape == (4, 3)


def test_a_flattened_weight_is_bound_as_it_lies(tmp_path: Path) -> None:
    stored = np.arange(12, dtype=np.float32)
    tensors = _saved(tmp_path, {"table": stored})

    bound = _bind(tmp_path, tensors, {"modulation": (6, 2)})["model.modulation"]

    assert bound.shape == (6, 2)
    assert (_values(bound.pieces[0], np.float32) == stored).all()


@pytest.mark.parametrize("name", ["tokens.weight", "words.weight"])
def test_a_tied_weight_that_a_file_leaves_out_is_the_other_ones(tmp_path: Path, name: str) -> None:
    stored = np.arange(6, dtype=np.float32).reshape(3, 2)
    tensors = _saved(tmp_path, {"net.words.weight": stored})

    bound = _bind(tmp_path, tensors, {name: (3, 2)})[f"model.{name}"]

    assert (_values(bound.pieces[0], np.float32) == stored.ravel()).all()


def test_a_tied_weight_that_a_file_has_is_its_own(tmp_path: Path) -> None:
    tensors = _saved(tmp_path, {"tokens.weight": np.ones((3, 2), np.float32), "words.weight": np.eye(3, 2, dtype="f4")})

    bound = _bind(tmp_path, tensors, {"words.weight": (3, 2)})["model.words.weight"]

    assert list(_values(bound.pieces[0], np.float32)) == [1, 0, 0, 1, 0, 0]


def test_a_file_in_the_librarys_own_names_needs_no_table(tmp_path: Path) -> None:
    tensors = _saved(tmp_path, {"final.weight": np.ones((4, 3), np.float32), "other": np.ones(1, np.float32)})

    assert _bind(tmp_path, tensors, {"final.weight": (4, 3)})["model.final.weight"].pieces[0].length == 48


@pytest.mark.parametrize(("ending", "scale"), [(".scale_weight", 0.5), (".weight_scale", 0.25), (None, 1.0)])
def test_a_float8_weight_comes_with_its_scale_or_with_one(tmp_path: Path, ending: str | None, scale: float) -> None:
    tensors = {"out.weight": Values(dtype="F8_E4M3", shape=(2, 3), data=bytes(6))}
    if ending:
        tensors["out" + ending] = Values(dtype="F32", shape=(), data=np.float32(scale).tobytes())
    (tmp_path / "model.safetensors").write_bytes(b"".join(encode(tensors)))

    bound = _bind(tmp_path, read_header(tmp_path / "model.safetensors"), {"final.weight": (2, 3)})["model.final.weight"]

    assert bound.dtype == "F8_E4M3"
    assert bound.pieces[0].file == tmp_path / "model.safetensors"
    assert bound.scale is not None
    assert _values(bound.scale, np.float32) == scale


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("F64", np.float64(0.75).tobytes()),
        ("F16", np.float16(0.75).tobytes()),
        ("BF16", np.float32(0.75).tobytes()[2:]),
    ],
)
def test_a_scale_of_another_type_is_read_all_the_same(tmp_path: Path, dtype: str, data: bytes) -> None:
    tensors = {
        "out.weight": Values(dtype="F8_E4M3", shape=(2, 3), data=bytes(6)),
        "out.scale_weight": Values(dtype=dtype, shape=(1,), data=data),
    }
    (tmp_path / "model.safetensors").write_bytes(b"".join(encode(tensors)))

    bound = _bind(tmp_path, read_header(tmp_path / "model.safetensors"), {"final.weight": (2, 3)})["model.final.weight"]

    assert bound.scale is not None
    assert _values(bound.scale, np.float32) == 0.75


def test_parts_of_a_fused_float8_weight_share_its_scale_and_swapped_halves_keep_theirs(tmp_path: Path) -> None:
    tensors = {
        "blocks.0.qkv.weight": Values(dtype="F8_E4M3", shape=(6, 1), data=bytes(6)),
        "blocks.0.qkv.weight_scale": Values(dtype="F32", shape=(), data=np.float32(0.5).tobytes()),
        "shift": Values(dtype="F8_E4M3", shape=(4, 1), data=bytes(4)),
        "shift.scale_weight": Values(dtype="F32", shape=(1,), data=np.float32(2).tobytes()),
        "scaled_fp8": Values(dtype="F8_E4M3", shape=(0,), data=b""),
    }
    (tmp_path / "model.safetensors").write_bytes(b"".join(encode(tensors)))
    shapes = {f"l.0.{part}.weight": (2, 1) for part in "qkv"} | {"scale_shift": (4, 1)}

    bound = _bind(tmp_path, read_header(tmp_path / "model.safetensors"), shapes)

    scales = {name: float(_values(one.scale, np.float32)[0]) for name, one in bound.items() if one.scale}
    assert scales == {f"model.l.0.{part}.weight": 0.5 for part in "qkv"} | {"model.scale_shift": 2.0}
    assert len(bound["model.scale_shift"].pieces) == 2


def _written(tmp_path: Path, tensors: Mapping[str, Values]) -> Mapping[str, StoredTensor]:
    (tmp_path / "model.safetensors").write_bytes(b"".join(encode(tensors)))
    return read_header(tmp_path / "model.safetensors")


def _float8(*shape: int) -> Values:
    return Values(dtype="F8_E4M3", shape=shape, data=bytes(int(np.prod(shape))))


def _scales(values: np.ndarray) -> Values:
    return Values(dtype="F32", shape=values.shape, data=values.astype(np.float32).tobytes())


@pytest.mark.parametrize(
    ("scales", "grid"),
    [(np.arange(2) + 1.0, (2, 1)), (np.ones((2, 1)), (2, 1)), (np.arange(6).reshape(2, 3) + 1.0, (2, 3))],
)
@pytest.mark.parametrize("ending", [".weight_scale", ".weight_scale_inv", ".scale_weight"])
def test_a_float8_weight_may_have_a_scale_for_each_row_or_block(
    tmp_path: Path, ending: str, scales: np.ndarray, grid: tuple[int, ...]
) -> None:
    tensors = _written(tmp_path, {"out.weight": _float8(2, 6), "out" + ending: _scales(scales)})

    bound = _bind(tmp_path, tensors, {"final.weight": (2, 6)})["model.final.weight"]

    assert bound.grid == grid
    assert bound.scale is not None
    assert (_values(bound.scale, np.float32) == scales.ravel()).all()


def test_parts_of_a_fused_float8_weight_have_the_blocks_that_are_theirs(tmp_path: Path) -> None:
    scales = np.arange(8).reshape(4, 2) + 1.0
    tensors = _written(
        tmp_path, {"blocks.0.qkv.weight": _float8(8, 4), "blocks.0.qkv.weight_scale_inv": _scales(scales)}
    )

    bound = _bind(tmp_path, tensors, {"l.0.q.weight": (4, 4), "l.0.k.weight": (2, 4), "l.0.v.weight": (2, 4)})

    found = {part: bound[f"model.l.0.{part}.weight"] for part in "qkv"}
    assert {part: one.grid for part, one in found.items()} == {"q": (2, 2), "k": (1, 2), "v": (1, 2)}
    for part, rows in (("q", scales[:2]), ("k", scales[2:3]), ("v", scales[3:])):
        piece = found[part].scale
        assert piece is not None
        assert (_values(piece, np.float32) == rows.ravel()).all()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (
            {"out.weight_block_scale": _scales(np.ones(1))},
            "'out.weight_block_scale', a scale of a kind that is not known",
        ),
        ({"out.scale": _scales(np.ones(1))}, "'out.scale', a scale of a kind"),
        ({"out.weight.absmax": _scales(np.ones(3))}, "'out.weight.absmax', a scale of a kind"),
        ({"out.weight_scale": _scales(np.ones((3, 5)))}, r"F32 \(3, 5\): no grid of blocks over \(4, 6\)"),
        ({"out.weight_scale": Values(dtype="U8", shape=(1,), data=b"1")}, r"is U8 \(1,\)"),
        (
            {"out.comfy_quant": Values(dtype="U8", shape=(28,), data=b'{"format": "float8_e5m2"}   ')},
            "'out.comfy_quant' says .*float8_e5m2",
        ),
        (
            {"out.comfy_quant": Values(dtype="U8", shape=(43,), data=b'{"format":"float8_e4m3fn","convrot": true  ')},
            "'out.comfy_quant' cannot be read",
        ),
    ],
)
def test_a_float8_weight_is_never_bound_without_a_scale_that_it_has(
    tmp_path: Path, more: Mapping[str, Values], reason: str
) -> None:
    tensors = _written(tmp_path, {"out.weight": _float8(4, 6), **more})

    with pytest.raises(WeightsMissing, match=f"{reason}.*take the float8 e4m3 or the bf16 file"):
        _bind(tmp_path, tensors, {"final.weight": (4, 6)})


def test_scales_of_what_goes_through_a_layer_are_left_alone_and_plain_notes_too(tmp_path: Path) -> None:
    note = b'{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}'
    more = {f"out{ending}": _scales(np.full((), 9.0)) for ending in (".input_scale", ".scale_input", ".output_scale")}
    more["out.comfy_quant"] = Values(dtype="U8", shape=(len(note),), data=note)
    tensors = _written(tmp_path, {"out.weight": _float8(4, 6), **more})

    bound = _bind(tmp_path, tensors, {"final.weight": (4, 6)})["model.final.weight"]

    assert bound.scale is not None
    assert _values(bound.scale, np.float32) == 1


def test_blocks_that_belong_to_two_weights_are_refused(tmp_path: Path) -> None:
    tensors = _written(
        tmp_path, {"blocks.0.qkv.weight": _float8(6, 4), "blocks.0.qkv.weight_scale": _scales(np.ones((2, 2)))}
    )

    with pytest.raises(WeightsMissing, match="blocks of one scale that belong to two weights"):
        _bind(tmp_path, tensors, {f"l.0.{part}.weight": (2, 4) for part in "qkv"})


def test_what_a_checkpoint_holds_is_counted_as_it_is_stored(tmp_path: Path) -> None:
    tensors = _written(
        tmp_path, {"out.weight": _float8(4, 6), "shift": Values(dtype="F16", shape=(4, 2), data=bytes(16))}
    )

    held = check({"model.final.weight": (4, 6), "model.scale_shift": (4, 2)}, tensors, (TABLE,))

    assert held == StoredWeights(sizes={"F8_E4M3": 24, "F16": 16}, scales=4, tensors=2)
    assert not (tmp_path / "side.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("net.time_embed.cond_proj.weight", "a latent consistency model"),
        ("net.blocks.7.qkv.weight", "another network, or of one that was extended"),
        ("net.out.lora_up.weight", "another network"),
    ],
)
def test_a_tensor_inside_the_network_that_nothing_reads_is_refused_by_its_name(
    tmp_path: Path, name: str, meaning: str
) -> None:
    tensors = _saved(tmp_path, {"net.out.weight": np.ones((4, 3), np.float32), name: np.ones((9, 3), np.float32)})

    with pytest.raises(WeightsMissing, match=f"{name}, which it has no use for: the file is of {meaning}"):
        check({"model.final.weight": (4, 3)}, tensors, (TABLE,))


def test_what_files_are_known_to_have_beside_is_no_reason_to_refuse_them(tmp_path: Path) -> None:
    harmless = ("net.position_ids", "net.x.num_batches_tracked", "net.loss.logvar", "net.scaled_fp8", "other.weight")
    weights = {"net.out.weight": np.ones((4, 3), np.float32)}
    tensors = _saved(tmp_path, weights | {name: np.ones(1, np.float32) for name in harmless})

    assert check({"model.final.weight": (4, 3)}, tensors, (TABLE,)).size == 48


def test_the_other_half_of_a_network_is_known_in_the_files_names_and_in_the_librarys(tmp_path: Path) -> None:
    half = KeyMap(
        layout="ldm",
        prefixes=("vae.", ""),
        entries=tuple(Entry(stored=f"{one}.in.weight", library=(f"{one}.first.weight",)) for one in ("enc", "dec")),
        whole=False,
    )
    for number, inner in enumerate(("in", "first")):
        names = [f"vae.{one}.{inner}.weight" for one in ("enc", "dec")]
        (tmp_path / str(number)).mkdir()
        tensors = _saved(tmp_path / str(number), {name: np.ones((2, 2), np.float32) for name in names})

        assert check({"model.dec.first.weight": (2, 2)}, tensors, (half,)).size == 16


def test_a_missing_weight_is_named_with_the_closest_keys(tmp_path: Path) -> None:
    tensors = _saved(tmp_path, {"outt.weight": np.ones((4, 3), np.float32), "shift": np.ones((2, 2), np.float32)})

    with pytest.raises(WeightsMissing, match=r"'out.weight' \(4, 3\) is missing; closest are outt.weight"):
        _bind(tmp_path, tensors, {"final.weight": (4, 3), "scale_shift": (2, 2)})


def test_a_weight_of_another_shape_is_told_with_both(tmp_path: Path) -> None:
    tensors = _saved(tmp_path, {"out.weight": np.ones((3, 4), np.float32)})

    with pytest.raises(WeightsMissing, match=r"'out.weight' has the shape \(3, 4\) where the network needs \(4, 3\)"):
        _bind(tmp_path, tensors, {"final.weight": (4, 3)})


def test_a_checkpoint_of_something_else_is_told_as_that(tmp_path: Path) -> None:
    tensors = _saved(tmp_path, {"encoder.x": np.ones(1, np.float32)})

    with pytest.raises(WeightsMissing, match=r"none of the network's 1 weights .* --architecture\), or without"):
        _bind(tmp_path, tensors, {"final.weight": (4, 3)})


def test_a_weight_of_integers_is_refused(tmp_path: Path) -> None:
    tensors = _saved(tmp_path, {"out.weight": np.ones((4, 3), np.int8)})

    with pytest.raises(WeightsMissing, match=r"of type I8; graphs read F16.*: take the float8 e4m3 or the bf16 file"):
        _bind(tmp_path, tensors, {"final.weight": (4, 3)})
