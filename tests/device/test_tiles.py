"""A picture for which an autoencoder has no room, or no engine, goes through it in tiles; the log says so once."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest
from loguru import logger
from PIL import Image

from tests.device.conftest import Collector, make_run
from trt_engines.backend import EngineSpec
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.backends.onnxruntime import OnnxRuntimeSource
from trt_engines.devices.device import HostComputingDevice
from trt_engines.residency import Footprint
from trt_worker import frames

MIB = 2**20
AUTOENCODERS = ("vae_decoder", "vae_encoder")
WIDTH, HEIGHT = 448, 320


class Large(OnnxRuntimeSource):
    """ONNX Runtime whose autoencoders say that they need a hundred bytes of memory for every pixel."""

    def footprint(self, spec: EngineSpec) -> Footprint:
        pixels = spec.bucket.width * spec.bucket.height
        return Footprint(weights=MIB, activations=100 * pixels if spec.network in AUTOENCODERS else 0)


class Narrow(OnnxRuntimeSource):
    """ONNX Runtime whose autoencoders take no more than 256 pixels."""

    def refuses(self, spec: EngineSpec) -> str | None:
        too_large = max(spec.bucket.width, spec.bucket.height) > 256
        return "no profile takes it" if too_large and spec.network in AUTOENCODERS else None


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    said: list[str] = []
    number = logger.add(lambda message: said.append(message.record["message"]), level="WARNING")
    yield said
    logger.remove(number)


def a_source() -> bytes:
    picture = Image.linear_gradient("L").resize((WIDTH, HEIGHT)).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def made(collector: Collector, *jobs: str, source: bytes = b"") -> None:
    for job in jobs:
        collector.loop.take(make_run(job, width=WIDTH, height=HEIGHT, steps=1, strength=0.5 if source else 1.0), source)
        collector.finish()
    assert not collector.of(frames.Failed)


def in_tiles(warnings: list[str], network: str) -> list[str]:
    told = f"shapes-tiny/{network} on onnxruntime takes {WIDTH}x{HEIGHT} in tiles of 256x256"
    return [one for one in warnings if one.startswith(told)]


def test_a_budget_that_is_too_small_for_the_whole_leads_to_tiles_and_a_picture(
    a_device: Callable[[], HostComputingDevice], warnings: list[str]
) -> None:
    whole, tile = WIDTH * HEIGHT * 100, 256 * 256 * 100
    assert tile < 12 * MIB < whole
    collector = Collector(OnDeviceBackend("onnxruntime", Large(a_device(), 1)), memory=12 * MIB)

    made(collector, "one", "two", source=a_source())

    assert collector.pictures["one", 0].shape == (HEIGHT, WIDTH, 3)
    assert collector.pictures["two", 0].std() > 1
    assert len(in_tiles(warnings, "vae_decoder")) == 1
    assert len(in_tiles(warnings, "vae_encoder")) == 1


def test_a_size_that_no_engine_takes_leads_to_tiles_and_one_that_is_taken_does_not(
    a_device: Callable[[], HostComputingDevice], warnings: list[str]
) -> None:
    collector = Collector(OnDeviceBackend("onnxruntime", Narrow(a_device(), 1)))

    made(collector, "one", "two")
    collector.loop.take(make_run("small", width=256, height=192, steps=1), b"")
    collector.finish()

    assert collector.pictures["one", 0].shape == (HEIGHT, WIDTH, 3)
    assert collector.pictures["small", 0].shape == (192, 256, 3)
    assert len(in_tiles(warnings, "vae_decoder")) == 1
    assert not [one for one in warnings if "256x192" in one]


def test_with_room_for_the_whole_nothing_is_done_in_tiles(
    a_device: Callable[[], HostComputingDevice], warnings: list[str]
) -> None:
    collector = Collector(OnDeviceBackend("onnxruntime", Large(a_device(), 1)), memory=64 * MIB)

    made(collector, "one", source=a_source())

    assert not [one for one in warnings if "tiles" in one]
