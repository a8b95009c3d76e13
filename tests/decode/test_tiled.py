"""Pictures that the decoder does not take whole are decoded in tiles, and look as if they had been decoded whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trt_engines.backend import EngineSpec
from trt_engines.backends.host_source import network_plan
from trt_engines.bucket import Bucket
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import DeviceProperties, HostComputingDevice
from trt_engines.devices.memory import Buffer, Place
from trt_engines.devices.operations import Network, NetworkOperation, Operation
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import EngineRefused
from trt_engines.model import find_models
from trt_engines.sessions.bound import BoundEngine
from trt_engines.sessions.host import HostSession
from trt_engines.sessions.onnx_graph import open_graph, session_network
from trt_engines.sessions.tiled_calls import AHEAD, TiledCalls
from trt_worker.decode.decoder import Decoded
from trt_worker.decode.tiled import TiledDecoder

MODEL = find_models()["shapes-tiny"]
CARD = DeviceProperties(name="a card", sm=89, memory_bytes=1 << 28, multiprocessors=128)
TILE = 256
WIDTH, HEIGHT = 640, 384


def repeating(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """A decoder that sees nothing but one latent cell, and repeats three of its channels over the cell's pixels."""
    return {"pixels": inputs["latent"][:, :3].repeat(8, axis=2).repeat(8, axis=3)}


def an_engine(device: HostComputingDevice, network: Any, name: str = "vae_decoder", side: int = TILE) -> BoundEngine:
    spec = EngineSpec(model=MODEL, network=name, bucket=Bucket(width=side, height=side, rows=1))
    session = HostSession(device, network_plan(spec, network))
    return BoundEngine(device, session, spec.interface, device.create_stream("decode"))


class Bench:
    """A decoder in tiles on a stream of its own, and a stream whose one piece of memory holds latent after latent."""

    def __init__(
        self,
        device: HostComputingDevice,
        network: Any = repeating,
        *,
        slots: int = 3,
        width: int = WIDTH,
        height: int = HEIGHT,
    ) -> None:
        self.device = device
        self.denoise = device.create_stream("denoise")
        self.engine = an_engine(device, network)
        self.decoder: TiledDecoder[str] = TiledDecoder(device, self.engine, width, height, slots)
        self._memory: Buffer = device.allocate(4 * (height // 8) * (width // 8) * 4)

    def begin(self, tag: str, latent: NDArray[np.float32]) -> None:
        source: Buffer = self.device.allocate(latent.nbytes, Place.HOST)
        self.device.view(source, latent.dtype, latent.shape, write=True)[:] = latent
        self.device.copy(self._memory, source, self.denoise)
        self.decoder.begin(tag, self._memory, self.denoise)

    def all(self) -> list[Decoded[str]]:
        back: list[Decoded[str]] = []
        while self.decoder.running:
            self.decoder.wait()
            back += self.decoder.finished()
        return back


@pytest.fixture(params=["cpu", "simulated"])
def device(request: pytest.FixtureRequest) -> HostComputingDevice:
    return CpuDevice() if request.param == "cpu" else SimulatedDevice(CARD, seed=3)


def a_latent(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(4, HEIGHT // 8, WIDTH // 8)).astype(np.float32)


def pixels_of(planes: NDArray[np.float32]) -> NDArray[np.uint8]:
    scaled = (planes * np.float32(0.5) + np.float32(0.5)) * np.float32(255)
    return np.clip(scaled, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def differences(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.int_]:
    return np.abs(one.astype(int) - other.astype(int))


def smooth_pictures(width: int = WIDTH, height: int = HEIGHT) -> dict[str, NDArray[np.float32]]:
    """Planes from -1 to 1: one colour, a slope, slow waves, and soft spots."""
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    waves = [np.sin(6.28 * (a * x + b * y) + c) for a, b, c in ((1, 0.5, 0), (0.5, 1.5, 1), (1, -1, 2))]
    spots = [2 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 0.05) - 1 for a, b in ((0.3, 0.3), (0.6, 0.5), (0.5, 0.8))]
    return {
        "one colour": np.broadcast_to(np.float32([[[0.3]], [[-0.2]], [[0.5]]]), (3, height, width)).copy(),
        "slope": np.float32([2 * x - 1, 2 * y - 1, 1 - x - y]),
        "waves": np.float32(waves) * np.float32(0.8),
        "spots": np.float32(spots),
    }


def with_statistics_of(network: str, inputs: Mapping[str, NDArray[Any]]) -> Network:
    """A network of shapes-tiny whose every group normalisation has the mean and variance of one call, for good."""
    graph = onnx.load(MODEL.networks[network].graph)
    norms = [node for node in graph.graph.node if node.op_type == "InstanceNormalization"]
    assert norms
    asked = [name for norm in norms for name in norm.input]
    tapped = onnx.ModelProto()
    tapped.CopyFrom(graph)
    fixed = {one.name: numpy_helper.to_array(one) for one in graph.graph.initializer}
    tapped.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in dict.fromkeys(asked)
        if name not in fixed
    )
    tap = onnxruntime.InferenceSession(tapped.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [one.name for one in tap.get_outputs()]
    values = fixed | dict(zip(names, tap.run(names, dict(inputs)), strict=True))
    nodes = []
    for number, node in enumerate(graph.graph.node):
        if node.op_type != "InstanceNormalization":
            nodes.append(node)
            continue
        given, scale, bias = (values[name].astype(np.float64) for name in node.input)
        (epsilon,) = (one.f for one in node.attribute if one.name == "epsilon")
        factor = scale / np.sqrt(given.var(axis=2)[0] + epsilon)
        offset = bias - given.mean(axis=2)[0] * factor
        for kind, value in (("factor", factor), ("offset", offset)):
            constant = numpy_helper.from_array(np.float32(value)[np.newaxis, :, np.newaxis], f"{kind} {number}")
            graph.graph.initializer.append(constant)
        nodes.append(helper.make_node("Mul", [node.input[0], f"factor {number}"], [f"scaled {number}"]))
        nodes.append(helper.make_node("Add", [f"scaled {number}", f"offset {number}"], list(node.output)))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return session_network(onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]))


ENCODE = session_network(open_graph(MODEL.networks["vae_encoder"].graph, 1))
DECODE = session_network(open_graph(MODEL.networks["vae_decoder"].graph, 1))


def test_pictures_of_tiles_are_those_of_the_whole_where_a_decoder_sees_single_cells(
    device: HostComputingDevice,
) -> None:
    bench = Bench(device, slots=2)

    for number in range(4):  # two more than there are slots
        bench.begin(str(number), a_latent(number))
    back = bench.all()

    assert [one.tag for one in back] == ["0", "1", "2", "3"]
    for number, one in enumerate(back):
        assert one.finite
        assert one.error is None
        (planes,) = repeating({"latent": a_latent(number)[np.newaxis]})["pixels"]
        assert differences(one.pixels, pixels_of(planes)).max() <= 1  # sums of weights are one but for their last bit


@pytest.mark.parametrize("kind", smooth_pictures())
def test_a_smooth_picture_is_within_one_level_of_the_whole_but_for_the_statistics_of_its_tiles(
    device: HostComputingDevice, kind: str
) -> None:
    """What tiles see of a picture suffices for every layer of a real decoder, and they are blended without a seam."""
    latent = ENCODE({"pixels": smooth_pictures()[kind][np.newaxis]})["latent"]
    (whole,) = DECODE({"latent": latent})["pixels"]
    bench = Bench(device, with_statistics_of("vae_decoder", {"latent": latent}))

    bench.begin(kind, latent[0])
    (back,) = bench.all()

    assert differences(back.pixels, pixels_of(whole)).max() <= 1


@pytest.mark.parametrize("kind", smooth_pictures())
def test_a_smooth_picture_is_encoded_in_tiles_as_it_is_whole_but_for_the_statistics_of_its_tiles(
    device: HostComputingDevice, kind: str
) -> None:
    pixels = smooth_pictures()[kind][np.newaxis]
    whole = ENCODE({"pixels": pixels})["latent"]
    engine = an_engine(device, with_statistics_of("vae_encoder", {"pixels": pixels}), "vae_encoder")

    call = TiledCalls(device, engine, WIDTH, HEIGHT).begin(1, {"pixels": pixels})
    latent = call.results()["latent"]

    assert np.abs(latent - whole).max() <= 2 / 255  # of values whose spread is one, as pixels run from -1 to 1


def test_a_picture_that_is_not_finite_is_told_apart_and_the_next_one_is_fine(device: HostComputingDevice) -> None:
    for spoilt in (np.nan, np.inf):
        bench = Bench(device)
        latent = a_latent(0)
        latent[1, 20, 31] = spoilt
        bench.begin("spoilt", latent)
        bench.begin("fine", a_latent(0))

        assert [one.finite for one in bench.all()] == [False, True]


def test_a_tile_that_is_refused_ends_its_picture_alone(device: HostComputingDevice) -> None:
    bench = Bench(device)
    run, calls = bench.engine.run, iter(range(100))

    def refusing(rows: int) -> None:
        if next(calls) == 1:
            raise RuntimeError("the second tile is refused")
        run(rows)

    bench.engine.run = refusing  # type: ignore[method-assign]
    bench.begin("refused", a_latent(0))
    bench.begin("fine", a_latent(1))
    refused, fine = bench.all()

    assert str(refused.error) == "the second tile is refused"
    (planes,) = repeating({"latent": a_latent(1)[np.newaxis]})["pixels"]
    assert fine.error is None
    assert differences(fine.pixels, pixels_of(planes)).max() <= 1


def test_the_host_is_not_held_up_by_a_picture_on_its_way_and_gives_some_tiles_at_a_time() -> None:
    def slow(operation: Operation) -> float:
        return 5.0 if isinstance(operation, NetworkOperation) else 0.0

    given = 0

    def counting(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        nonlocal given
        given += 1
        return repeating(inputs)

    card = SimulatedDevice(CARD, seconds=slow)
    bench = Bench(card, counting)
    bench.begin("one", a_latent(1))
    tiles = 8  # four across, two down

    while not (back := bench.decoder.finished()):
        card.advance(5)

    (one,) = back
    assert given == tiles > AHEAD
    assert one.seconds == pytest.approx(5 * tiles)
    assert card.clock == 5 * tiles  # it had something to do all the time, and nobody waited for it


def test_a_closed_decoder_gives_what_was_on_its_way_and_all_memory_back() -> None:
    card = SimulatedDevice(CARD, seed=5)
    bench = Bench(card)
    before = card.memory_info().free

    bench.begin("one", a_latent(1))
    bench.begin("two", a_latent(2))
    bench.decoder.close()

    assert [one.tag for one in bench.decoder.finished()] == ["one", "two"]
    assert not bench.decoder.running
    assert card.memory_info().free == before


def test_a_picture_that_its_tiles_cannot_cover_is_refused() -> None:
    with pytest.raises(EngineRefused, match="cannot take 128x384 in tiles: 128 pixels"):
        Bench(CpuDevice(), width=128)
