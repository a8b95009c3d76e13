"""Pictures decoded on a device are the host's, and come back while it works on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.backend import EngineSpec
from trt_engines.backends.onnxruntime import OnnxRuntimeBackend
from trt_engines.bucket import Bucket
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import DeviceProperties, HostComputingDevice
from trt_engines.devices.memory import Buffer, Place
from trt_engines.devices.operations import NetworkOperation, Operation
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.interface import interface_of
from trt_engines.model import Component, find_models
from trt_engines.sessions.bound import BoundEngine
from trt_engines.sessions.host import HostSession, host_plan, onnx_network
from trt_worker.decode.decoder import Decoder
from trt_worker.decode.device_decoder import DeviceDecoder

MODEL = find_models()["shapes-tiny"]
SPEC = EngineSpec(model=MODEL, component=Component.VAE_DECODER, bucket=Bucket(width=64, height=64, rows=1))
CARD = DeviceProperties(name="a card", sm=89, memory_bytes=1 << 26, multiprocessors=128)
NETWORK = onnx_network(MODEL.graphs[Component.VAE_DECODER], 1)


class Bench:
    """A decoder on a stream of its own, and a stream whose one piece of memory holds latent after latent."""

    def __init__(self, device: HostComputingDevice, network: Any = NETWORK) -> None:
        self.device = device
        self.denoise = device.create_stream("denoise")
        interface = interface_of(SPEC)
        (latent,) = interface.inputs
        session = HostSession(device, host_plan(SPEC, interface, network))
        self.engine = BoundEngine(device, session, interface, device.create_stream("decode"))
        self.decoder: DeviceDecoder[str] = DeviceDecoder(device, self.engine)
        self._memory = device.allocate(int(np.prod(latent.shape)) * 4)

    def begin(self, tag: str, latent: NDArray[np.float32]) -> None:
        source: Buffer = self.device.allocate(latent.nbytes, Place.HOST)
        self.device.view(source, latent.dtype, latent.shape, write=True)[:] = latent
        self.device.copy(self._memory, source, self.denoise)
        self.decoder.begin(tag, self._memory, self.denoise)


def a_latent(seed: int) -> NDArray[np.float32]:
    (spec,) = interface_of(SPEC).inputs
    return np.random.default_rng(seed).normal(size=spec.shape[1:]).astype(np.float32)


@pytest.fixture(params=["cpu", "simulated"])
def device(request: pytest.FixtureRequest) -> HostComputingDevice:
    return CpuDevice() if request.param == "cpu" else SimulatedDevice(CARD, seed=3)


def test_pictures_are_those_of_the_host_in_the_order_of_their_latents(device: HostComputingDevice) -> None:
    bench, expected = Bench(device), Decoder(OnnxRuntimeBackend(1).load(SPEC))

    back = []
    for number in range(5):
        if not bench.decoder.room:
            back.append(bench.decoder.wait())
        bench.begin(str(number), a_latent(number))
    back += [bench.decoder.wait() for _ in range(2)]

    assert [one.tag for one in back] == ["0", "1", "2", "3", "4"]
    for number, one in enumerate(back):
        assert one.finite
        np.testing.assert_array_equal(one.pixels, expected.decode(a_latent(number)[np.newaxis])[0])


def test_a_picture_that_is_not_finite_is_told_apart_and_the_next_one_is_fine(device: HostComputingDevice) -> None:
    spoil = [True, False]

    def network(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        (pixels,) = NETWORK(inputs).values()
        if spoil.pop(0):
            pixels[0, 1, 2, 3] = np.nan
        return {"pixels": pixels}

    bench = Bench(device, network)
    bench.begin("spoilt", a_latent(0))
    bench.begin("fine", a_latent(0))

    assert [bench.decoder.wait().finite, bench.decoder.wait().finite] == [False, True]


def test_a_full_decoder_takes_no_latent(device: HostComputingDevice) -> None:
    bench = Bench(device)
    bench.begin("one", a_latent(1))
    bench.begin("two", a_latent(2))

    with pytest.raises(ValueError, match="all 2 places are taken"):
        bench.begin("three", a_latent(3))


def test_the_host_is_not_held_up_by_a_picture_on_its_way() -> None:
    def slow(operation: Operation) -> float:
        return 5.0 if isinstance(operation, NetworkOperation) else 0.0

    card = SimulatedDevice(CARD, seconds=slow)
    bench = Bench(card)

    bench.begin("one", a_latent(1))

    assert bench.decoder.finished() == []
    assert card.clock == 0
    card.advance(5)
    assert [one.tag for one in bench.decoder.finished()] == ["one"]
    assert card.clock == 5


def test_closing_gives_back_all_memory_it_took() -> None:
    card = SimulatedDevice(CARD)
    bench = Bench(card)
    before = card.memory_info().free
    more: DeviceDecoder[str] = DeviceDecoder(card, bench.engine, slots=3)
    assert card.memory_info().free < before

    more.close()

    assert card.memory_info().free == before
