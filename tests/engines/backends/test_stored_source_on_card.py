"""A stored engine on a real card, held to ONNX Runtime on the processor; skipped where there is no card."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.backend import EngineSpec
from trt_engines.backends.onnxruntime import open_graph
from trt_engines.backends.stored_source import StoredSource, installed_version
from trt_engines.bucket import Bucket
from trt_engines.builders.builder import BuilderMissing, BuildRequest, EngineBuilder, keep_going
from trt_engines.builders.tensorrt import TensorRt
from trt_engines.builders.tensorrt_rtx import TensorRtRtx
from trt_engines.cards import RTX_TARGETS
from trt_engines.devices.cuda import CudaDevice
from trt_engines.devices.errors import DeviceUnavailable
from trt_engines.devices.memory import Place
from trt_engines.interface import Interface, TensorSpec
from trt_engines.model import find_models
from trt_engines.sessions.bound import BoundEngine
from trt_engines.sessions.onnx_graph import declared_tensors
from trt_engines.sessions.session import Declared
from trt_engines.sessions.tensorrt import TensorRtSession
from trt_engines.store.identity import Identity, InputRange
from trt_engines.store.manifest import PLAN, Certificate
from trt_engines.store.store import Store
from trt_engines.store.stored import Stored

WEIGHTS = "1" * 64
SHIPPED = find_models()["shapes-tiny"]
MODEL = replace(SHIPPED, networks={name: replace(files, digest=WEIGHTS) for name, files in SHIPPED.networks.items()})
SPECS = [
    EngineSpec(model=MODEL, network=network, bucket=Bucket(width=64, height=64, rows=rows))
    for network, rows in (("text_encoder", 1), ("denoiser", 4), ("vae_decoder", 2))
]


def a_builder(sm: int) -> EngineBuilder:
    """What builds for a card."""
    return TensorRtRtx() if sm in RTX_TARGETS else TensorRt()


def built(store: Store, spec: EngineSpec, sm: int, builder: EngineBuilder, *, streams: bool = False) -> Stored:
    """The engine of a bucket of the model that ships, from its own graph."""
    interface = spec.ports.at(spec.bucket, tensors_of(spec))
    request = BuildRequest(
        graph=spec.model.networks[spec.network].graph,
        precision="float32",
        profiles=(
            tuple(InputRange(name=one.name, min=one.at(1), opt=one.shape, max=one.shape) for one in interface.inputs),
        ),
        compute_capabilities=(sm,),
        weight_streaming=streams,
    )
    identity = Identity(
        architecture=spec.model.architecture,
        component=spec.network,
        graph="0" * 64,
        weights=WEIGHTS,
        precision=request.precision,
        profiles=request.profiles,
        flags=request.flags,
        library=builder.name,
        library_version=builder.version(),
        compute_capabilities=request.compute_capabilities,
    )
    with store.building(identity) as staging:
        result = builder.build(request, staging.path(PLAN), keep_going)
        staging.phase_done("build", (PLAN,), seconds=result.build_seconds)
        return staging.publish(
            models=(spec.model.name,),
            certificate=Certificate(verdict="passed"),
            files=(PLAN,),
            memory=result.memory,
        )


def tensors_of(spec: EngineSpec) -> Mapping[str, Declared]:
    """As the model's own graph declares them."""
    graph = spec.model.networks[spec.network].graph
    assert graph is not None
    return declared_tensors(open_graph(graph, 1))


def inputs_of(spec: EngineSpec) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(7)

    def values(tensor: TensorSpec) -> NDArray[Any]:
        if tensor.dtype.kind == "i":
            return random.integers(0, 100, tensor.shape).astype(tensor.dtype)
        return random.normal(size=tensor.shape).astype(tensor.dtype)

    return {tensor.name: values(tensor) for tensor in spec.ports.at(spec.bucket, tensors_of(spec)).inputs}


@pytest.fixture
def card() -> Iterator[CudaDevice]:
    try:
        device = CudaDevice()
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    yield device
    device.close()


def a_session(card: CudaDevice, folder: Path, spec: EngineSpec, *, streams: bool = False) -> TensorRtSession:
    """An engine of the spec, built, stored and loaded."""
    sm = card.properties.sm
    assert sm is not None
    builder, store = a_builder(sm), Store(folder)
    try:
        built(store, spec, sm, builder, streams=streams)
    except BuilderMissing as missing:
        pytest.skip(str(missing))
    source = StoredSource(
        builder.name, store, installed=installed_version(builder.name), sm=sm, open_device=lambda: card
    )
    source.stream_weights(spec, source.footprint(spec).streamable // 2)
    session = source.open(spec)
    first = session.context(interface_with(spec, session), card.create_stream("measure"))
    assert source.footprint(spec).activations == first.activation_bytes
    first.close()
    return session


def interface_with(spec: EngineSpec, session: TensorRtSession) -> Interface:
    """The tensors of a spec in the sizes that the engine has."""
    return spec.ports.at(spec.bucket, session.tensors)


class Called:
    """An engine in a stream of its own, called with arrays."""

    def __init__(self, card: CudaDevice, session: TensorRtSession, spec: EngineSpec, label: str) -> None:
        self.interface = interface_with(spec, session)
        (self.output,) = self.interface.outputs
        self.card, self.stream = card, card.create_stream(label)
        self.engine = BoundEngine(card, session, self.interface, self.stream)
        self.host = {
            one.name: card.allocate(one.bytes, Place.HOST) for one in (*self.interface.inputs, *self.interface.outputs)
        }

    def begin(self, rows: int, given: dict[str, NDArray[Any]]) -> None:
        for one in self.interface.inputs:
            host = self.host[one.name].part(0, one.bytes_at(rows))
            self.card.view(host, one.dtype, one.at(rows), write=True)[...] = given[one.name][:rows]
            self.card.copy(self.engine.of_call(one.name, rows), host, self.stream)
        self.engine.run(rows)
        host = self.host[self.output.name].part(0, self.output.bytes_at(rows))
        self.card.copy(host, self.engine.of_call(self.output.name, rows), self.stream)

    def take(self, rows: int) -> NDArray[Any]:
        self.card.synchronize(self.stream)
        host = self.host[self.output.name].part(0, self.output.bytes_at(rows))
        return self.card.view(host, self.output.dtype, self.output.at(rows)).copy()

    def call(self, rows: int, given: dict[str, NDArray[Any]]) -> NDArray[Any]:
        self.begin(rows, given)
        return self.take(rows)


def expected_of(spec: EngineSpec, given: dict[str, NDArray[Any]], rows: int) -> NDArray[Any]:
    graph = open_graph(spec.model.networks[spec.network].graph, threads=2)
    (expected,) = graph.run(None, {name: values[:rows] for name, values in given.items()})
    return np.asarray(expected)


@pytest.mark.gpu
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.network)
def test_a_stored_engine_computes_what_onnx_runtime_computes(
    card: CudaDevice, tmp_path: Path, spec: EngineSpec, streams: bool
) -> None:
    given, rows = inputs_of(spec), spec.bucket.rows
    session = a_session(card, tmp_path, spec, streams=streams)
    called = Called(card, session, spec, "work")

    results = [called.call(rows, given) for _ in range(3)]  # plainly, then as the graph that was captured
    captured = called.engine._calls[rows].captured
    called.engine.close()
    session.close()

    np.testing.assert_allclose(results[0], expected_of(spec, given, rows), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])
    assert streams or captured, "calls are launched one kernel after another: the log says why"


@pytest.mark.gpu
def test_calls_with_other_rows_between_are_what_they_are_alone(card: CudaDevice, tmp_path: Path) -> None:
    spec = SPECS[1]
    session = a_session(card, tmp_path, spec)
    called = Called(card, session, spec, "work")

    for number, rows in enumerate((4, 4, 1, 1, 4, 2, 2, 1, 4)):  # its activations are as large as 4 rows need
        given = {name: values + number for name, values in inputs_of(spec).items()}
        np.testing.assert_allclose(called.call(rows, given), expected_of(spec, given, rows), rtol=1e-3, atol=1e-3)
    called.engine.close()
    session.close()


@pytest.mark.gpu
def test_a_bucket_within_a_profile_works_in_the_memory_that_its_own_shapes_need(
    card: CudaDevice, tmp_path: Path
) -> None:
    small = replace(SPECS[1], bucket=Bucket(width=64, height=64, rows=1))
    session = a_session(card, tmp_path, SPECS[1])
    called = Called(card, session, small, "work")

    result = called.call(1, inputs_of(small))
    least = called.engine._calls[1].context.activation_bytes
    called.engine.close()
    whole = Called(card, session, SPECS[1], "whole")

    np.testing.assert_allclose(result, expected_of(small, inputs_of(small), 1), rtol=1e-3, atol=1e-3)
    assert 0 < least < whole.engine._calls[SPECS[1].bucket.rows].context.activation_bytes
    whole.engine.close()
    session.close()


@pytest.mark.gpu
def test_two_contexts_of_one_engine_run_in_two_streams_at_once(card: CudaDevice, tmp_path: Path) -> None:
    spec = SPECS[1]
    session = a_session(card, tmp_path, spec)
    pair = [Called(card, session, spec, label) for label in ("one", "other")]  # of the same profile
    given = [{name: values + number for name, values in inputs_of(spec).items()} for number in range(2)]
    alone = [one.call(4, values) for one, values in zip(pair, given, strict=True)]

    for _ in range(20):
        for one, values in zip(pair, given, strict=True):
            one.begin(4, values)
        for one, result in zip(pair, alone, strict=True):
            np.testing.assert_array_equal(one.take(4), result)
    for one in pair:
        one.engine.close()
    session.close()


@pytest.mark.gpu
def test_a_closed_engine_leaves_no_weights_on_the_card_though_it_is_still_known(
    card: CudaDevice, tmp_path: Path
) -> None:
    before = 0
    for turn in range(3):  # the first makes what CUDA and the library keep for good
        session = a_session(card, tmp_path / str(turn), SPECS[1])
        called = Called(card, session, SPECS[1], "work")
        called.call(4, inputs_of(SPECS[1]))
        called.engine.close()
        session.close()
        free = card.memory_info().free
        assert free >= before - (2 << 20)  # what CUDA gives out at a time
        before = free


@pytest.mark.gpu
def test_a_process_whose_card_failed_leaves_with_the_status_that_says_so(card: CudaDevice, tmp_path: Path) -> None:
    script = """
import sys
import numpy as np
from trt_engines.devices.cuda import CudaDevice
from trt_engines.devices.errors import DeviceFault
from trt_engines.devices.memory import Allocation, Buffer, Place
from trt_engines.kernels.catalogue import to_pixels
from trt_engines.kernels.kernel import FLOAT
card = CudaDevice()
stream = card.create_stream("work")
nowhere = [Buffer(Allocation(Place.DEVICE, 0x1000, size), 0, size) for size in (3072, 4, 12288)]
call = to_pixels(FLOAT, pixels=nowhere[0], not_finite=nowhere[1], decoded=nowhere[2], height=32, width=32)
card.launch(call, stream)
try:
    card.synchronize(stream)
except DeviceFault:
    sys.exit(70)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=120).returncode == 70
