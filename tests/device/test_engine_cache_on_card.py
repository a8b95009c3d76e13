"""What the cache counts, held to what sessions really take of a card that allows not one byte too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trt_engines.backend import Engine, EngineSpec
from trt_engines.bucket import Bucket
from trt_engines.devices.device import DeviceProperties, Stream
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import OutOfMemory
from trt_engines.interface import Interface, TensorSpec
from trt_engines.model import Model, find_models
from trt_engines.residency import Footprint
from trt_engines.sessions.activation import SharedActivation
from trt_engines.sessions.bound import BoundEngine
from trt_engines.sessions.host import HostPlan, HostSession
from trt_engines.sessions.session import ShapeRange
from trt_worker.device.engine_cache import EngineCache

UNIT = 256
"""Bytes to which the card rounds allocations up, as CUDA does; everything here is a multiple of it."""

MOST_ROWS = 8
WIDTH = UNIT // 4
MODELS = {name: replace(find_models()["shapes-tiny"], name=name) for name in "abc"}
WEIGHTS = {"text_encoder": 8, "denoiser": 40, "vae_decoder": 12, "vae_encoder": 12}
ACTIVATIONS = {"text_encoder": 2, "denoiser": 6, "vae_decoder": 20, "vae_encoder": 9}
STREAMABLE = 32
"""Of a denoiser. All in units."""


def twice(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {"y": 2 * inputs["x"]}


def tensors(rows: int) -> Interface:
    x, y = (TensorSpec(name=name, shape=(rows, WIDTH), dtype=np.dtype(np.float32)) for name in "xy")
    return Interface(inputs=(x,), outputs=(y,))


def engine_of(spec: EngineSpec) -> str:
    return "many rows" if spec.bucket.rows > 3 else "few rows"


class LanesBackend:
    """Sessions on a simulated card, each stream with an activation block of its own.

    Each network has two engines, for few rows and for many.
    """

    name = "lanes"

    def __init__(self, device: SimulatedDevice) -> None:
        self.device = device
        self._activations: dict[Stream, SharedActivation] = {}
        self._sessions: dict[tuple[str, str, str], HostSession] = {}
        self._streamed: dict[tuple[str, str, str], int] = {}

    def refuses(self, spec: EngineSpec) -> str | None:
        return None

    def footprint(self, spec: EngineSpec) -> Footprint:
        return Footprint(
            weights=WEIGHTS[spec.network] * UNIT,
            activations=ACTIVATIONS[spec.network] * UNIT,
            tensors=tensors(spec.bucket.rows).bytes,
            streamable=STREAMABLE * UNIT if spec.network == "denoiser" else 0,
            engine=engine_of(spec),
        )

    def stream_weights(self, spec: EngineSpec, size: int) -> None:
        self._streamed[spec.model.name, spec.network, engine_of(spec)] = size

    def load(self, spec: EngineSpec, stream: Stream) -> Engine:
        key = (spec.model.name, spec.network, engine_of(spec))
        if stream not in self._activations:
            self._activations[stream] = SharedActivation(self.device, stream)
        if key not in self._sessions:
            whole = ShapeRange(min=(1, WIDTH), opt=(1, WIDTH), max=(MOST_ROWS, WIDTH))
            plan = HostPlan(
                label=spec.label,
                network=twice,
                profiles=({"x": whole},),
                weight_bytes=WEIGHTS[spec.network] * UNIT - self._streamed.get(key, 0),
                activation_bytes=ACTIVATIONS[spec.network] * UNIT,
            )
            self._sessions[key] = HostSession(self.device, plan)
        bound = tensors(spec.bucket.rows)
        return BoundEngine(self.device, self._sessions[key], bound, stream, self._activations[stream])

    def unload(self, model: Model, network: str) -> None:
        for key in [key for key in self._sessions if key[:2] == (model.name, network)]:
            self._sessions.pop(key).close()


def specs(model: str, network: str, rows: Sequence[int]) -> list[EngineSpec]:
    buckets = [Bucket(width=64, height=64, rows=count) for count in rows]
    return [EngineSpec(model=MODELS[model], network=network, bucket=bucket) for bucket in buckets]


class Streams:
    """As the loop has them: one for what conditions, two for denoisers, one for pictures."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._condition, *self._denoise, self._decode = (
            device.create_stream(label) for label in ("condition", "denoise 0", "denoise 1", "decode")
        )

    def of(self, model: str, network: str) -> Stream:
        match network:
            case "denoiser":
                return self._denoise["abc".index(model) % 2]
            case "vae_decoder":
                return self._decode
            case _:
                return self._condition


wishes = st.tuples(st.sampled_from("abc"), st.sampled_from(sorted(WEIGHTS)), st.sampled_from([(8, 4, 2), (4, 2), (1,)]))


@settings(deadline=None)
@given(
    units=st.integers(30, 220),
    wishes=st.lists(st.one_of(wishes, st.integers(0, 60)), max_size=25),
    kept=st.integers(0, 3),
)
def test_what_is_admitted_fits_to_the_byte_and_what_is_counted_is_what_is_taken(
    units: int, wishes: list[Any], kept: int
) -> None:
    """A wish is an engine, or what a batch is to allocate in units; the last `kept` engines are in use."""
    card = DeviceProperties(name="a card", sm=89, memory_bytes=units * UNIT, multiprocessors=1)
    device, used, batch, refusals = SimulatedDevice(card), list[Any](), None, list[str]()
    cache = EngineCache(
        units * UNIT,
        in_use=lambda: used,
        loading=lambda spec: None,
        loaded=lambda spec: None,
        closing=lambda engine: None,
    )
    backend, streams = LanesBackend(device), Streams(device)

    for wish in wishes:
        try:
            if isinstance(wish, int):
                if batch is not None:
                    device.free(batch)
                    batch = None
                    cache.release("a batch")
                cache.reserve("a batch", wish * UNIT, "a batch")
                batch = device.allocate(wish * UNIT) if wish else None
            else:
                model, network, rows = wish
                engine = cache.get(backend, specs(model, network, rows), streams.of(model, network))
                used = [*(one for one in used if one is not engine), engine][-kept:] if kept else []
        except OutOfMemory as refused:
            refusals.append(str(refused))
        assert card.memory_bytes - device.memory_info().free == cache.taken

    assert all("are there for" in one for one in refusals)  # the cache's words, and never the card's
    if batch is not None:
        device.free(batch)
        cache.release("a batch")
    used = []
    cache.free_idle()
    assert device.memory_info().free == card.memory_bytes
    device.close()
