"""The certificate of a network of one convolution, whose graph is computed in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import nn

from trt_engines.architectures.axis import ROWS, Axis, Quantity
from trt_engines.architectures.cost import Cost
from trt_engines.architectures.network import Network, Role
from trt_engines.architectures.ports import Ports
from trt_engines.architectures.tensor import Kind, Tensor
from trt_engines.bound_weights import BoundTensor, Piece, float32_values
from trt_engines.bucket import Bucket
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.registry import module_of
from trt_engines.store.manifest import Certificate
from trt_export.building.certificate import Reference, certify, compare, seeded_inputs
from trt_export.checkpoints.binding import bind
from trt_export.checkpoints.safetensors_file import read_header
from trt_export.parity import BUCKETS as BUCKETS_OF_ALL
from trt_export.parity import inputs_of, lively_module

SIDES = (Axis(name="height", quantity=Quantity.HEIGHT, unit=8), Axis(name="width", quantity=Quantity.WIDTH, unit=8))
SAMPLE = Tensor(name="sample", shape=(ROWS, 4, *SIDES))
SHAPE = (4, 4, 3, 3)
BUCKETS = (Bucket(width=64, height=64, rows=1), Bucket(width=128, height=64, rows=2))


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Conv2d(4, 4, 3, padding=1, bias=False)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.model(sample)
        return result


def make(_config: Mapping[str, Any]) -> nn.Module:
    return Convolution()


NETWORK = ModuleSpec(
    network=Network(
        name="denoiser",
        role=Role.DENOISER,
        ports=Ports(inputs=(SAMPLE,), outputs=(SAMPLE,)),
        folders=(),
        parameters=144,
        cost=Cost(cell=8, per_cell=288.0),
    ),
    make=make,
    config={},
    small_config={},
)


def a_weight(folder: Path, values: np.ndarray, dtype: str) -> BoundTensor:
    """A weight after some other bytes of a file."""
    file = folder / "weights.safetensors"
    file.write_bytes(b"\0" * 64 + values.tobytes())
    return BoundTensor(
        name="model.weight", dtype=dtype, shape=SHAPE, pieces=(Piece(file=file, offset=64, length=values.nbytes),)
    )


def a_graph(folder: Path, element: int, itemsize: int) -> Path:
    """The convolution over the weight of `a_weight`."""
    weight = TensorProto(name="model.weight", data_type=element, dims=SHAPE, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights.safetensors"), ("offset", 64), ("length", 144 * itemsize)):
        weight.external_data.add(key=key, value=str(value))
    node = helper.make_node("Conv", ["sample", "model.weight"], ["result"], pads=[1, 1, 1, 1])
    axes = ["rows", 4, "height/8", "width/8"]
    ports = [helper.make_tensor_value_info(name, element, axes) for name in ("sample", "result")]
    graph = helper.make_graph([node], "convolution", ports[:1], ports[1:], [weight])
    file = folder / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return file


def certified(folder: Path, weight: BoundTensor, element: int = TensorProto.FLOAT16, itemsize: int = 2) -> Certificate:
    told: list[float] = []
    graph = a_graph(folder, element, itemsize)
    certificate = certify(NETWORK, graph, [weight], BUCKETS, 1000.0, lambda step, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0
    return certificate


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(5).standard_normal(SHAPE, np.float32) / 6


def test_a_graph_in_half_precision_passes_with_figures_for_every_bucket(tmp_path: Path, values: np.ndarray) -> None:
    certificate = certified(tmp_path, a_weight(tmp_path, values.astype(np.float16), "F16"))

    assert certificate.verdict == "passed"
    assert list(certificate.figures["buckets"]) == ["64x64r1t77", "128x64r2t77"]
    for figures in certificate.figures["buckets"].values():
        assert 0 < figures["max_abs"] < 0.01
        assert figures["psnr"] > 60
        assert figures["ssim"] > 0.999
        assert figures["not_finite"] == 0


def test_a_graph_in_bfloat16_is_computed_from_the_same_weights(tmp_path: Path, values: np.ndarray) -> None:
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)

    certificate = certified(tmp_path, a_weight(tmp_path, halves, "BF16"), TensorProto.BFLOAT16)

    assert certificate.verdict == "passed"


def test_a_graph_that_overflows_fails(tmp_path: Path, values: np.ndarray) -> None:
    certificate = certified(tmp_path, a_weight(tmp_path, (values * 60_000).astype(np.float16), "F16"))

    assert certificate.verdict == "failed"
    assert certificate.figures["buckets"]["128x64r2t77"]["not_finite"] > 0


def test_a_graph_that_computes_something_else_fails(tmp_path: Path, values: np.ndarray) -> None:
    weight = a_weight(tmp_path, values.astype(np.float16), "F16")
    other = tmp_path / "other"
    other.mkdir()
    a_weight(other, values[::-1].astype(np.float16), "F16")

    certificate = certified(other, weight)

    assert certificate.verdict == "failed"
    assert certificate.figures["buckets"]["64x64r1t77"]["psnr"] < 20


def test_the_worst_of_all_outputs_counts() -> None:
    picture = np.random.default_rng(1).random((1, 3, 32, 32))
    shifted = np.roll(picture, 1, axis=3)

    same, other = compare([picture, picture], [picture, picture]), compare([picture, shifted], [picture, picture])

    assert same == {"max_abs": 0.0, "psnr": 200.0, "ssim": 1.0, "not_finite": 0.0}
    assert other["psnr"] < 12
    assert other["ssim"] < 0.3
    assert other["max_abs"] == pytest.approx(np.abs(shifted - picture).max())


def test_psnr_is_of_the_reference_s_range() -> None:
    reference = np.linspace(-2.0, 2.0, 100).reshape(10, 10)

    assert compare([reference + 0.04], [reference])["psnr"] == pytest.approx(40.0)  # a hundredth of 4


def test_values_that_are_not_finite_are_counted_and_do_not_hide_the_others() -> None:
    reference = np.ones((1, 1, 8, 8))
    result = reference.copy()
    result[0, 0, 0, 0], result[0, 0, 1, 1] = np.nan, np.inf

    figures = compare([result], [reference])

    assert figures["not_finite"] == 2
    assert figures["max_abs"] == 1.0
    assert np.isfinite(figures["psnr"])


def test_inputs_are_the_same_at_every_call_and_of_the_bucket_s_shape() -> None:
    first, second = (seeded_inputs(NETWORK, BUCKETS[1], 500.0)["sample"] for _ in range(2))

    assert first.shape == (2, 4, 8, 16)
    assert np.array_equal(first, second)


def test_the_rows_of_a_bucket_are_at_times_that_part_the_whole_range_evenly() -> None:
    ports = Ports(inputs=(Tensor(name="timestep", shape=(ROWS,), kind=Kind.FLOAT32), SAMPLE), outputs=(SAMPLE,))
    timed = replace(NETWORK, network=replace(NETWORK.network, ports=ports))

    times = [seeded_inputs(timed, replace(BUCKETS[0], rows=rows), 1000.0)["timestep"] for rows in (1, 3)]

    assert [one.tolist() for one in times] == [[500.0], [250.0, 500.0, 750.0]]


def test_a_float8_weight_is_its_values_times_its_scale(tmp_path: Path) -> None:
    file = tmp_path / "scaled"
    file.write_bytes(np.float32(0.5).tobytes() + bytes([0x38, 0xB8]))  # 1 and -1 in e4m3
    weight = BoundTensor(
        name="model.weight",
        dtype="F8_E4M3",
        shape=(2,),
        pieces=(Piece(file=file, offset=4, length=2),),
        scale=Piece(file=file, offset=0, length=4),
    )

    assert float32_values(weight).tolist() == [0.5, -0.5]


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("stable_diffusion_1", "text_encoder"),
        ("sdxl", "text_encoder_2"),
        ("sdxl", "denoiser"),
        ("stable_diffusion_1", "vae_encoder"),
        ("stable_cascade", "denoiser"),
        ("stable_cascade", "effnet_encoder"),
        ("flux_dev", "text_encoder_2"),
        ("flux_dev", "denoiser"),
        ("flux2_klein_4b", "text_encoder"),
        ("krea_2_turbo", "text_encoder"),
        ("krea_2_turbo", "denoiser"),
        ("krea_2_turbo", "vae_decoder"),
    ],
)
def test_a_reference_of_bound_weights_computes_what_the_network_they_are_from_does(
    tmp_path: Path, family: str, name: str
) -> None:
    component = module_of(family, name).small
    module = lively_module(component)
    state = {key: value for key, value in module.state_dict().items() if value.is_floating_point()}
    file = tmp_path / "module.safetensors"
    save_file({key: torch.clone(value, memory_format=torch.contiguous_format) for key, value in state.items()}, file)
    shapes = {key: tuple(value.shape) for key, value in state.items()}

    reference = Reference(component, bind(shapes, read_header(file), (), tmp_path / "side.safetensors"))

    inputs = inputs_of(component, BUCKETS_OF_ALL[0])
    with torch.inference_mode():
        given = module(*inputs)
    theirs = given if isinstance(given, tuple) else (given,)
    for one, other in zip(reference.outputs([value.numpy() for value in inputs]), theirs, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-4, atol=1e-5)


def test_a_reference_has_zeros_where_nothing_is_bound_and_refuses_what_it_has_no_place_for(
    tmp_path: Path, values: np.ndarray
) -> None:
    weight = a_weight(tmp_path, values, "F32")
    sample = seeded_inputs(NETWORK, BUCKETS[0], 1.0)["sample"]

    assert not np.count_nonzero(Reference(NETWORK, []).outputs([sample])[0])
    assert np.count_nonzero(Reference(NETWORK, [weight]).outputs([sample])[0])
    with pytest.raises(ValueError, match=r"has no weights model\.bias"):
        Reference(NETWORK, [weight, replace(weight, name="model.bias")])
