"""Pictures decoded on a device are the host's, and come back while it works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.backend import EngineSpec
from trt_engines.backends.host_source import network_plan
from trt_engines.bucket import Bucket
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import DeviceProperties, HostComputingDevice
from trt_engines.devices.memory import Buffer, Place
from trt_engines.devices.operations import NetworkOperation, Operation
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import OutOfMemory
from trt_engines.interface import Interface
from trt_engines.kernels.kernel import FLOAT
from trt_engines.model import find_models
from trt_engines.sessions.bound import BoundEngine
from trt_engines.sessions.host import HostSession
from trt_engines.sessions.onnx_graph import open_graph, session_network
from trt_worker.decode.decoder import Decoded, Decoder, device_bytes

MODEL = find_models()["shapes-tiny"]
SPEC = EngineSpec(model=MODEL, network="vae_decoder", bucket=Bucket(width=64, height=64, rows=1))
CARD = DeviceProperties(name="a card", sm=89, memory_bytes=1 << 26, multiprocessors=128)
NETWORK = session_network(open_graph(MODEL.networks["vae_decoder"].graph, 1))


class Bench:
    """A decoder on a stream of its own, and a stream whose one piece of memory holds latent after latent."""

    def __init__(
        self,
        device: HostComputingDevice,
        network: Any = NETWORK,
        *,
        slots: int = 4,
        dtype: np.dtype[Any] = FLOAT,
    ) -> None:
        self.device = device
        self.denoise = device.create_stream("denoise")
        (latent,), (pixels,) = SPEC.interface.inputs, SPEC.interface.outputs
        interface = Interface(inputs=(replace(latent, dtype=dtype),), outputs=(replace(pixels, dtype=dtype),))
        session = HostSession(device, network_plan(SPEC, network))
        self.engine = BoundEngine(device, session, interface, device.create_stream("decode"))
        self.decoder: Decoder[str] = Decoder(device, self.engine, device.create_stream("copies"), slots)
        self._memory = device.allocate(int(np.prod(latent.shape)) * 4)

    def begin(self, tag: str, latent: NDArray[np.float32]) -> None:
        self.decoder.begin(tag, self.latent(latent), self.denoise)

    def latent(self, latent: NDArray[np.float32]) -> Buffer:
        source: Buffer = self.device.allocate(latent.nbytes, Place.HOST)
        self.device.view(source, latent.dtype, latent.shape, write=True)[:] = latent
        self.device.copy(self._memory, source, self.denoise)
        return self._memory

    def all(self) -> list[Decoded[str]]:
        back: list[Decoded[str]] = []
        while self.decoder.running:
            self.decoder.wait()
            back += self.decoder.finished()
        return back


def a_latent(seed: int) -> NDArray[np.float32]:
    (spec,) = SPEC.interface.inputs
    return np.random.default_rng(seed).normal(size=spec.shape[1:]).astype(np.float32)


@pytest.fixture(params=["cpu", "simulated"])
def device(request: pytest.FixtureRequest) -> HostComputingDevice:
    return CpuDevice() if request.param == "cpu" else SimulatedDevice(CARD, seed=3)


def pixels_of(latent: NDArray[np.float32]) -> NDArray[np.uint8]:
    (planes,) = NETWORK({"latent": latent[np.newaxis]})["pixels"]
    scaled = (planes * np.float32(0.5) + np.float32(0.5)) * np.float32(255)
    return np.clip(scaled, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def test_pictures_come_back_in_the_order_of_their_latents(device: HostComputingDevice) -> None:
    bench = Bench(device, slots=2)

    for number in range(5):  # three more than there are slots
        bench.begin(str(number), a_latent(number))
    back = bench.all()

    assert [one.tag for one in back] == ["0", "1", "2", "3", "4"]
    for number, one in enumerate(back):
        assert one.finite
        np.testing.assert_array_equal(one.pixels, pixels_of(a_latent(number)))


def test_an_engine_of_half_precision_is_given_latents_of_half_precision(device: HostComputingDevice) -> None:
    given = []

    def network(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        given.append(inputs["latent"].copy())
        return {"pixels": NETWORK({"latent": inputs["latent"].astype(np.float32)})["pixels"].astype(np.float16)}

    bench = Bench(device, network, dtype=np.dtype(np.float16))
    bench.begin("half", a_latent(0))
    (back,) = bench.all()

    np.testing.assert_array_equal(given[0][0], a_latent(0).astype(np.float16))
    assert np.abs(back.pixels.astype(int) - pixels_of(a_latent(0))).max() <= 2


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

    assert [one.finite for one in bench.all()] == [False, True]


def test_a_closed_decoder_still_gives_what_was_on_its_way(device: HostComputingDevice) -> None:
    bench = Bench(device)
    bench.begin("last", a_latent(1))

    bench.decoder.close()

    (back,) = bench.decoder.finished()
    np.testing.assert_array_equal(back.pixels, pixels_of(a_latent(1)))
    assert not bench.decoder.running


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
    more: Decoder[str] = Decoder(card, bench.engine, card.create_stream("copies"), slots=2)
    for tag in ("one", "two", "three"):
        more.begin(tag, bench.latent(a_latent(1)), bench.denoise)
    assert before - card.memory_info().free == device_bytes(bench.engine, slots=2)

    more.close()

    assert card.memory_info().free == before


def test_a_picture_that_finds_no_room_takes_none_and_may_come_again() -> None:
    device = SimulatedDevice(CARD, seed=3)
    bench = Bench(device, slots=1)
    latent = bench.latent(a_latent(0))
    free = device.memory_info().free
    last = device.allocate(free - 2**12)  # room for the latent, none for its pixels

    for _ in range(2):
        with pytest.raises(OutOfMemory):
            bench.decoder.begin("full", latent, bench.denoise)
    device.free(last)
    assert device.memory_info().free == free
    bench.decoder.begin("again", latent, bench.denoise)

    (picture,) = bench.all()
    assert (picture.pixels == pixels_of(a_latent(0))).all()
