"""A graph joined to a checkpoint computes with its bytes, and TensorRT-RTX builds it where they lie."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from trt_engines.bound_weights import BoundTensor, Piece, float32_values
from trt_engines.builders.builder import BuildRequest, keep_going
from trt_engines.builders.tensorrt_rtx import TensorRtRtx
from trt_engines.store.identity import InputRange
from trt_export.graphs.bound import bind_graph, link_files

WEIGHT = np.arange(32, dtype=np.float32).reshape(8, 4) / 8
X = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)


def _graph(element: int) -> onnx.ModelProto:
    """y = x @ w, w [8, 4] without values."""
    w = TensorProto(name="model.w", data_type=element, dims=(8, 4), data_location=TensorProto.EXTERNAL)
    x = helper.make_tensor_value_info("x", element, ["rows", 8])
    y = helper.make_tensor_value_info("y", element, ["rows", 4])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "model.w"], ["y"], name="mm")], "g", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _bound(file: Path, dtype: str, data: bytes, *, halves: bool = False, scale: float | None = None) -> BoundTensor:
    """The weight in a file, behind some other bytes."""
    file.write_bytes(b"header.." + data + (np.float32(scale).tobytes() if scale is not None else b""))
    whole = Piece(file=file, offset=8, length=len(data))
    half = len(data) // 2
    ends = (Piece(file=file, offset=8 + half, length=half), Piece(file=file, offset=8, length=half))
    factor = Piece(file=file, offset=8 + len(data), length=4) if scale is not None else None
    return BoundTensor(name="model.w", dtype=dtype, shape=(8, 4), pieces=ends if halves else (whole,), scale=factor)


def _computed(graph: onnx.ModelProto, folder: Path, x: np.ndarray) -> np.ndarray:
    """By ONNX' reference, which knows every type."""
    onnx.save(graph, folder / "graph.onnx")
    loaded = onnx.load(folder / "graph.onnx")
    result: np.ndarray = ReferenceEvaluator(loaded).run(None, {"x": x})[0]
    return result


def _copy_files(files: dict[str, Path], folder: Path) -> None:
    for place, file in files.items():
        (folder / place).write_bytes(file.read_bytes())


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize(("dtype", "stored"), [("F32", np.float32), ("F16", np.float16)])
def test_weights_of_any_type_and_order_are_what_the_graph_computes_with(
    tmp_path: Path, dtype: str, stored: type[np.generic], halves: bool
) -> None:
    source, folder = tmp_path / "model.safetensors", tmp_path / "graph"
    folder.mkdir()
    tensor = _bound(source, dtype, WEIGHT.astype(stored).tobytes(), halves=halves)

    bound = bind_graph(_graph(TensorProto.FLOAT), [tensor])
    _copy_files(dict(bound.files), folder)

    weight = np.concatenate([WEIGHT[4:], WEIGHT[:4]]) if halves else WEIGHT
    assert np.allclose(_computed(bound.proto, folder, X), X @ weight)


@pytest.mark.parametrize("halves", [False, True])
def test_a_float8_weight_is_its_value_times_its_scale(tmp_path: Path, halves: bool) -> None:
    source, folder = tmp_path / "model.safetensors", tmp_path / "graph"
    folder.mkdir()
    float8 = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
    values = WEIGHT.astype(float8)
    tensor = _bound(source, "F8_E4M3", values.tobytes(), halves=halves, scale=0.5)

    bound = bind_graph(_graph(TensorProto.FLOAT), [tensor])
    _copy_files(dict(bound.files), folder)

    weight = np.concatenate([values[4:], values[:4]]) if halves else values
    assert np.allclose(_computed(bound.proto, folder, X), X @ (weight.astype(np.float32) * 0.5), rtol=1e-5)


GRID = np.array([[0.5, 2.0], [4.0, 1.0], [0.25, 3.0], [8.0, 1.5]], np.float32)
"""A scale for each block of 2 x 2 values."""


def _in_blocks(file: Path, *, halves: bool) -> tuple[BoundTensor, np.ndarray]:
    """A float8 weight with a scale for each block, and its values in the library's order."""
    float8 = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
    values = WEIGHT.astype(float8)
    tensor = _bound(file, "F8_E4M3", values.tobytes() + GRID.tobytes())
    pieces = (Piece(file=file, offset=8, length=32),)
    if halves:
        pieces = (Piece(file=file, offset=24, length=16), Piece(file=file, offset=8, length=16))
    scale = Piece(file=file, offset=8 + 32, length=GRID.nbytes)
    weight = values.astype(np.float32) * GRID.repeat(2, 0).repeat(2, 1)
    tensor = replace(tensor, pieces=pieces, scale=scale, grid=GRID.shape)
    return tensor, np.concatenate([weight[4:], weight[:4]]) if halves else weight


@pytest.mark.parametrize("halves", [False, True])
def test_a_float8_weight_with_a_scale_for_each_block_is_multiplied_block_by_block(tmp_path: Path, halves: bool) -> None:
    tensor, weight = _in_blocks(tmp_path / "model.safetensors", halves=halves)
    folder = tmp_path / "graph"
    folder.mkdir()

    bound = bind_graph(_graph(TensorProto.FLOAT), [tensor])
    _copy_files(dict(bound.files), folder)
    onnx.save(bound.proto, folder / "graph.onnx")
    session = onnxruntime.InferenceSession(folder / "graph.onnx", providers=["CPUExecutionProvider"])

    assert np.allclose(session.run(None, {"x": X})[0], X @ weight, rtol=1e-5, atol=1e-5)
    assert (float32_values(tensor) == weight).all()  # what the certificate compares with


@pytest.mark.parametrize("halves", [False, True])
def test_the_real_builder_takes_a_weight_with_a_scale_for_each_block(tmp_path: Path, halves: bool) -> None:
    tensor, _ = _in_blocks(tmp_path / "model.safetensors", halves=halves)
    folder = tmp_path / "graph"
    folder.mkdir()
    bound = bind_graph(_graph(TensorProto.BFLOAT16), [tensor])
    link_files(bound, folder)
    onnx.save(bound.proto, folder / "graph.onnx")
    request = BuildRequest(
        graph=folder / "graph.onnx",
        precision="float8",
        profiles=((InputRange(name="x", min=(1, 8), opt=(2, 8), max=(4, 8)),),),
        compute_capabilities=(89,),
    )

    TensorRtRtx().build(request, tmp_path / "plan", keep_going)

    assert (tmp_path / "plan").stat().st_size


@pytest.mark.parametrize(
    ("dtype", "stored", "scale", "sm", "halves"),
    [
        ("F16", np.float16, None, 86, True),
        ("F32", np.float32, None, 86, False),
        ("F8_E4M3", np.uint8, 0.5, 89, False),
        ("F8_E4M3", np.uint8, 0.5, 89, True),
    ],
)
def test_the_real_builder_reads_the_checkpoint_through_a_link(
    tmp_path: Path, dtype: str, stored: type[np.generic], scale: float | None, sm: int, halves: bool
) -> None:
    folder = tmp_path / "graph"
    folder.mkdir()
    data = WEIGHT.astype(stored).tobytes()
    tensor = _bound(tmp_path / "model.safetensors", dtype, data, halves=halves, scale=scale)
    bound = bind_graph(_graph(TensorProto.FLOAT16), [tensor])
    link_files(bound, folder)
    onnx.save(bound.proto, folder / "graph.onnx")

    request = BuildRequest(
        graph=folder / "graph.onnx",
        precision="float8" if scale else "float16",
        profiles=((InputRange(name="x", min=(1, 8), opt=(2, 8), max=(4, 8)),),),
        compute_capabilities=(sm,),
    )

    TensorRtRtx().build(request, tmp_path / "plan", keep_going)

    assert (tmp_path / "plan").stat().st_size
    assert all(os.path.islink(folder / place) for place in bound.files)


def test_the_digest_follows_the_values_and_not_the_place(tmp_path: Path) -> None:
    data = WEIGHT.tobytes()
    changed = bytearray(data)
    changed[5] ^= 1
    graph = _graph(TensorProto.FLOAT)

    one = bind_graph(graph, [_bound(tmp_path / "one.safetensors", "F32", data)])
    moved = bind_graph(graph, [_bound(tmp_path / "two.safetensors", "F32", data)])
    other = bind_graph(graph, [_bound(tmp_path / "three.safetensors", "F32", bytes(changed))])

    assert one.weights == moved.weights
    assert one.weights != other.weights
    assert one.weight_bytes == len(data)


def test_a_weight_that_is_not_bound_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'model\.w' .8, 4. is not bound"):
        bind_graph(_graph(TensorProto.FLOAT), [])
