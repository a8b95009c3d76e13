"""A stored engine on a real card, held to ONNX Runtime on the processor; skipped where there is no card."""

from __future__ import annotations

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
from trt_engines.interface import TensorSpec, interface_of
from trt_engines.model import Component, find_models
from trt_engines.sessions.bound import BoundEngine
from trt_engines.store.identity import Identity, InputRange
from trt_engines.store.manifest import PLAN, Certificate
from trt_engines.store.store import Store
from trt_engines.store.stored import Stored

SPECS = [
    EngineSpec(model=find_models()["shapes-tiny"], component=component, bucket=Bucket(width=64, height=64, rows=rows))
    for component, rows in ((Component.TEXT_ENCODER, 1), (Component.DENOISER, 4), (Component.VAE_DECODER, 2))
]


def a_builder(sm: int) -> EngineBuilder:
    """What builds for a card."""
    return TensorRtRtx() if sm in RTX_TARGETS else TensorRt()


def built(store: Store, spec: EngineSpec, sm: int, builder: EngineBuilder, *, streams: bool = False) -> Stored:
    """The engine of a bucket of the model that ships, from its own graph."""
    interface = interface_of(spec)
    request = BuildRequest(
        graph=spec.model.graphs[spec.component],
        precision="float32",
        profiles=(
            tuple(InputRange(name=one.name, min=one.at(1), opt=one.shape, max=one.shape) for one in interface.inputs),
        ),
        compute_capabilities=(sm,),
        weight_streaming=streams,
    )
    identity = Identity(
        architecture=spec.model.architecture,
        component=spec.component.value,
        graph="0" * 64,
        weights="1" * 64,
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


def inputs_of(spec: EngineSpec) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(7)

    def values(tensor: TensorSpec) -> NDArray[Any]:
        if tensor.dtype.kind == "i":
            return random.integers(0, 100, tensor.shape).astype(tensor.dtype)
        return random.normal(size=tensor.shape).astype(tensor.dtype)

    return {tensor.name: values(tensor) for tensor in interface_of(spec).inputs}


@pytest.mark.gpu
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.component.value)
def test_a_stored_engine_computes_what_onnx_runtime_computes(tmp_path: Path, spec: EngineSpec, streams: bool) -> None:
    try:
        device = CudaDevice()
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    sm = device.properties.sm
    assert sm is not None
    builder, store = a_builder(sm), Store(tmp_path)
    try:
        built(store, spec, sm, builder, streams=streams)
    except BuilderMissing as missing:
        pytest.skip(str(missing))
    given = inputs_of(spec)
    (expected,) = open_graph(spec.model.graphs[spec.component], threads=2).run(None, given)
    source = StoredSource(
        builder.name, store, installed=installed_version(builder.name), sm=sm, open_device=lambda: device
    )
    told = source.footprint(spec)
    source.stream_weights(spec, told.streamable // 2)

    session = source.open(spec)
    interface = interface_of(spec, text_layers=expected.shape[0])
    (output,) = interface.outputs
    stream = device.create_stream("work")
    engine = BoundEngine(device, session, interface, stream)
    rows = interface.inputs[0].shape[0]
    host = {one.name: device.allocate(one.bytes, Place.HOST) for one in (*interface.inputs, output)}
    results = []
    for _ in range(3):  # plainly, then as the graph that was captured
        for one in interface.inputs:
            device.view(host[one.name], one.dtype, one.shape, write=True)[...] = given[one.name]
            device.copy(engine.of_call(one.name, rows), host[one.name], stream)
        engine.run(rows)
        device.copy(host[output.name], engine.of_call(output.name, rows), stream)
        device.synchronize(stream)
        results.append(device.view(host[output.name], output.dtype, output.shape).copy())
    measured = source.footprint(spec).activations
    engine.close()
    session.close()
    device.close()

    np.testing.assert_allclose(results[0], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])
    assert measured > 0
