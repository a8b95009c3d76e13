"""Every backend runs the shipped model the same."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.backend import EngineBackend, EngineSpec
from trt_engines.backends.ladder import make_backends
from trt_engines.backends.onnxruntime import onnxruntime_backend
from trt_engines.backends.pytorch import pytorch_backend
from trt_engines.bucket import Bucket
from trt_engines.errors import EngineFault, EngineRefused, ModelUnusable
from trt_engines.model import BUILT_IN, Model, find_models, read_model
from trt_engines.rig import find_gpus
from trt_engines.sessions.host_calls import HostCalls
from trt_engines.sessions.onnx_graph import declared_tensors, open_graph
from trt_engines.sessions.session import Declared


@pytest.fixture(scope="module")
def model() -> Model:
    return find_models()["shapes-tiny"]


def a_spec(model: Model, network: str, *, width: int = 128, height: int = 64, rows: int = 2) -> EngineSpec:
    return EngineSpec(model=model, network=network, bucket=Bucket(width=width, height=height, rows=rows, tokens=154))


def loaded(backend: EngineBackend, spec: EngineSpec) -> HostCalls:
    return HostCalls(backend.device, backend.load(spec, backend.device.create_stream("calls")))


@cache
def tensors_of(network: str) -> Mapping[str, Declared]:
    """As the graph of the model that ships declares them."""
    graph = find_models()["shapes-tiny"].networks[network].graph
    assert graph is not None
    return declared_tensors(open_graph(graph, 1))


def some_inputs(spec: EngineSpec, seed: int = 0) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(seed)
    inputs = {}
    for tensor in spec.ports.at(spec.bucket, tensors_of(spec.network)).inputs:
        ids = tensor.name == "input_ids"
        values = random.integers(0, 49_407, tensor.shape) if ids else random.normal(size=tensor.shape)
        inputs[tensor.name] = np.abs(values) * 300 if tensor.name == "timestep" else values
    return inputs


@pytest.mark.parametrize("network", sorted(find_models()["shapes-tiny"].networks))
@pytest.mark.parametrize(("width", "height", "rows"), [(128, 64, 2), (72, 136, 3)])
@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_agrees_with_pytorch_at_sizes_that_no_level_halves_too(
    model: Model, network: str, width: int, height: int, rows: int
) -> None:
    spec = a_spec(model, network, width=width, height=height, rows=rows)
    inputs = some_inputs(spec)

    ours = loaded(onnxruntime_backend(1), spec).run(rows, inputs)
    reference = loaded(pytorch_backend(1), spec).run(rows, inputs)

    assert ours.keys() == reference.keys()
    for name, expected in reference.items():
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_fewer_rows_than_the_bucket_give_the_same_rows(model: Model) -> None:
    spec = a_spec(model, "denoiser", rows=4)
    calls, inputs = loaded(onnxruntime_backend(1), spec), some_inputs(spec, 1)

    whole = calls.run(4, inputs)["noise_pred"]
    part = calls.run(2, {name: values[:2] for name, values in inputs.items()})["noise_pred"]

    np.testing.assert_allclose(part, whole[:2], atol=1e-4)


def test_a_damaged_graph_is_an_engine_fault_that_names_the_file(tmp_path: Path) -> None:
    folder = shutil.copytree(BUILT_IN / "shapes-tiny", tmp_path / "damaged")
    (folder / "denoiser.onnx").write_bytes(b"not a graph")

    with pytest.raises(EngineFault, match=r"unet\.onnx"):
        loaded(onnxruntime_backend(1), a_spec(read_model(folder), "denoiser"))


def test_a_model_folder_without_one_of_its_files_is_unusable_and_says_which(tmp_path: Path) -> None:
    folder = shutil.copytree(BUILT_IN / "shapes-tiny", tmp_path / "incomplete")
    (folder / "vae_decoder.onnx").unlink()

    with pytest.raises(ModelUnusable, match=r"vae_decoder\.onnx"):
        read_model(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 1}'])
def test_a_malformed_description_is_unusable_and_never_a_traceback(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)

    with pytest.raises(ModelUnusable, match=r"model\.json"):
        read_model(tmp_path)


def test_an_unknown_backend_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(EngineRefused, match=r"onnxruntime.*pytorch"):
        make_backends(["cuda"])


def test_the_shipped_weights_are_small() -> None:
    weights = sum(file.stat().st_size for file in (BUILT_IN / "shapes-tiny").rglob("*.safetensors"))

    assert weights <= 24_000_000


def test_the_shipped_graphs_name_no_file_of_the_machine_that_made_them() -> None:
    graphs = list((BUILT_IN / "shapes-tiny").glob("*.onnx"))

    assert len(graphs) == 4
    assert [graph.name for graph in graphs if b".py" in graph.read_bytes()] == []


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "pytorch-gpu"])
@pytest.mark.skipif(bool(find_gpus()), reason="this machine has a card")
def test_a_backend_of_a_card_never_computes_on_the_processor_in_silence(model: Model, name: str) -> None:
    (backend,) = make_backends([name])

    with pytest.raises(EngineFault, match=r"this PyTorch sees no card|does not compute with CUDAExecutionProvider"):
        loaded(backend, a_spec(model, "denoiser"))
