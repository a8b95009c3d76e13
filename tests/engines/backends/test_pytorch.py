"""PyTorch as a backend: what it computes with, what it takes, and what it refuses; a card is stood for."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from trt_engines.architectures.registry import architecture
from trt_engines.backend import EngineSpec
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.backends.pytorch import Card, PyTorchSource, bound_network, compute_type
from trt_engines.bound_weights import BoundTensor, Piece
from trt_engines.bucket import Bucket
from trt_engines.devices.cpu import CpuDevice
from trt_engines.errors import EngineError, EngineFault
from trt_engines.model import BUILT_IN, read_model
from trt_engines.residency import Memory
from trt_engines.sessions.host_calls import HostCalls


class ProcessorAsCard(Card):
    """Computes on the processor what a card would."""

    def __init__(self, *, bfloat16: bool = True) -> None:
        self._bfloat16 = bfloat16

    def device(self) -> str:
        return "cpu"

    def computes_bfloat16(self) -> bool:
        return self._bfloat16


def a_source(card: Card | None = None) -> PyTorchSource:
    return PyTorchSource(CpuDevice(), 1, card=card)


def a_spec(folder: Path = BUILT_IN / "shapes-tiny", network: str = "denoiser", rows: int = 2) -> EngineSpec:
    bucket = Bucket(width=64, height=64, rows=rows, tokens=77)
    return EngineSpec(model=read_model(folder), network=network, bucket=bucket)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUILT_IN / "shapes-tiny", tmp_path / "model"))


def computed(source: PyTorchSource, spec: EngineSpec) -> np.ndarray:
    random = np.random.default_rng(3)
    sample = random.standard_normal((2, 4, 8, 8), np.float32)
    inputs = {
        "sample": sample,
        "timestep": np.array([900, 100], np.float32),
        "context": random.standard_normal((2, 77, 64), np.float32),
    }
    backend = OnDeviceBackend("pytorch", source)
    calls = HostCalls(backend.device, backend.load(spec, backend.device.create_stream("calls")))
    result: np.ndarray = calls.run(2, inputs)["noise_pred"]
    return result


def test_on_a_card_half_precision_takes_and_gives_float32_and_computes_nearly_that() -> None:
    spec = a_spec()

    whole, half = computed(a_source(), spec), computed(a_source(ProcessorAsCard()), spec)

    assert half.dtype == np.float32
    error = np.abs(half - whole).max() / np.abs(whole).max()
    assert 1e-5 < error < 0.01


HALF, BRAIN, SINGLE = ("F16", 2), ("BF16", 2), ("F32", 4)


@pytest.mark.parametrize(
    ("family", "network", "stored", "bfloat16", "expected"),
    [
        ("sdxl", "denoiser", HALF, True, "float16"),
        ("sdxl", "denoiser", BRAIN, True, "bfloat16"),
        ("sdxl", "denoiser", BRAIN, False, "float16"),
        ("sdxl", "denoiser", SINGLE, True, "float16"),
        ("sdxl", "vae_decoder", HALF, True, "bfloat16"),
        ("sdxl", "vae_decoder", HALF, False, "float32"),
        ("flux_dev", "denoiser", ("F8_E4M3", 1), True, "bfloat16"),
        ("flux_dev", "denoiser", HALF, True, "float16"),
        ("krea_2_turbo", "denoiser", BRAIN, False, "float32"),
    ],
)
def test_a_card_computes_in_the_checkpoint_s_half_precision_where_the_network_does_not_overflow(
    family: str, network: str, stored: tuple[str, int], bfloat16: bool, expected: str
) -> None:
    dtype, size = stored
    few = BoundTensor(
        name="few", dtype="BF16", shape=(2,), pieces=(Piece(file=Path("weights"), offset=0, length=4),)
    )  # does not decide
    weight = BoundTensor(
        name="weight", dtype=dtype, shape=(64,), pieces=(Piece(file=Path("weights"), offset=4, length=64 * size),)
    )
    tensors = (few, weight) if dtype == "F16" else (weight,)

    assert compute_type(architecture(family).network(network), tensors, bfloat16=bfloat16) == expected


def test_a_footprint_is_of_the_bound_weights_in_the_type_that_is_computed_with() -> None:
    spec = a_spec()
    weights = sum(math.prod(one.shape) for one in bound_network(spec).tensors)

    here, there = a_source().footprint(spec), a_source(ProcessorAsCard()).footprint(spec)
    more = a_source().footprint(a_spec(rows=4))

    assert (here.weights, there.weights) == (4 * weights, 2 * weights)
    assert here.activations == pytest.approx(2 * there.activations, abs=1)
    assert more.activations == pytest.approx(2 * here.activations, abs=1)
    assert here.activations > 0
    assert here.tensors == there.tensors == spec.interface.bytes
    assert (a_source().memory, a_source(ProcessorAsCard()).memory) == (Memory.MACHINE, Memory.CARD)


def test_a_smaller_model_has_smaller_activations_than_its_architecture() -> None:
    spec = a_spec()
    network = spec.model.facts.network("denoiser")
    own = 2 * 2 * network.cost.activation_bytes(width=64, height=64, tokens=77)  # rows, bytes over two

    assert a_source().footprint(spec).activations < 0.5 * own


def test_a_model_that_does_not_say_where_its_weights_lie_is_refused_with_what_to_do(folder: Path) -> None:
    described = json.loads((folder / "model.json").read_bytes())
    del described["networks"]["denoiser"]["bindings"]
    (folder / "model.json").write_text(json.dumps(described))

    assert "run `models add` again" in (a_source().refuses(a_spec(folder)) or "")
    assert a_source().refuses(a_spec(folder, "vae_decoder")) is None


def test_damaged_bindings_are_refused_by_their_file(folder: Path) -> None:
    spec = a_spec(folder)
    (folder / "denoiser.weights.json").write_bytes(b"{")

    assert "denoiser.weights.json" in (a_source().refuses(spec) or "")


def test_bindings_of_other_sizes_than_the_network_s_are_a_fault_and_no_crash(folder: Path) -> None:
    file = folder / "denoiser.weights.json"
    described = json.loads(file.read_bytes())
    for config in ({}, {**described["config"], "block_out_channels": [32, 64, 160]}, {"cross_attention_dim": "wide"}):
        file.write_text(json.dumps({**described, "config": config}))
        with pytest.raises(EngineFault, match=r"shapes-tiny/denoiser|denoiser: model"):
            a_source().open(a_spec(folder))


def test_a_model_that_was_added_anew_is_read_anew(folder: Path) -> None:
    spec, file = a_spec(folder), folder / "denoiser.weights.json"
    before = bound_network(spec)
    described = json.loads(file.read_bytes())
    described["tensors"].pop()
    (folder / "new").write_text(json.dumps(described))
    os.replace(folder / "new", file)

    assert len(bound_network(spec).tensors) == len(before.tensors) - 1


def test_a_file_of_weights_that_went_after_it_was_looked_for_is_an_error_that_a_worker_handles(folder: Path) -> None:
    spec = a_spec(folder)
    assert a_source().refuses(spec) is None
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()

    with pytest.raises(EngineError, match="diffusion_pytorch_model"):
        a_source().open(spec)
