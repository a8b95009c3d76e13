"""Engines within a budget of memory, with a backend that costs nothing and says what it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trt_engines.backend import Engine, EngineSpec
from trt_engines.backends.dummy import dummy_network
from trt_engines.backends.host_source import NetworkSource
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.bucket import Bucket
from trt_engines.devices.device import Stream
from trt_engines.errors import OutOfMemory
from trt_engines.model import Model, find_models
from trt_engines.residency import Footprint
from trt_worker.device.engine_cache import FIRST_LOAD_SECONDS, EngineCache

TICK = 1e-3
"""Seconds that pass whenever somebody looks at the clock, so that no two uses are at the same time."""

SHIPPED = find_models()["shapes-tiny"]


class Sized(OnDeviceBackend):
    """Takes 10 bytes of weights a network and one of activations a row; refuses memory as often as it is told."""

    def __init__(self, refusals: int = 0) -> None:
        super().__init__("dummy", NetworkSource(dummy_network))
        self.refusals = refusals
        self.unloaded: list[str] = []
        self.seconds = 0.0  # of the clock, which loads move on
        self.load_seconds = 1.0  # that one takes

    def footprint(self, spec: EngineSpec) -> Footprint:
        return Footprint(weights=10, activations=spec.bucket.rows)

    def load(self, spec: EngineSpec, stream: Stream) -> Engine:
        if self.refusals:
            self.refusals -= 1
            raise OutOfMemory(f"{spec.label}: the card is full")
        self.seconds += self.load_seconds
        return super().load(spec, stream)

    def unload(self, model: Model, network: str) -> None:
        super().unload(model, network)
        self.unloaded.append(model.name)


class Tensors(Sized):
    """Takes as much for the bound tensors of a bucket as for its calls."""

    def footprint(self, spec: EngineSpec) -> Footprint:
        return Footprint(weights=10, activations=spec.bucket.rows, tensors=spec.bucket.rows)


class TwoEngines(Sized):
    """Another engine, with weights of its own, for more than four rows."""

    def footprint(self, spec: EngineSpec) -> Footprint:
        rows = spec.bucket.rows
        return Footprint(weights=10, tensors=rows, engine="wide" if rows > 4 else "narrow")


class Streaming(Sized):
    """Weights that may stay in host memory, but for two bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.streamed: list[int] = []

    def footprint(self, spec: EngineSpec) -> Footprint:
        return Footprint(weights=10, activations=spec.bucket.rows, streamable=8)

    def stream_weights(self, spec: EngineSpec, size: int) -> None:
        self.streamed.append(size)


class Measured(Sized):
    """Finds out what its calls take when they are loaded: three times what was thought."""

    def __init__(self) -> None:
        super().__init__()
        self.measured = False

    def footprint(self, spec: EngineSpec) -> Footprint:
        return Footprint(weights=10, activations=spec.bucket.rows * (3 if self.measured else 1))

    def load(self, spec: EngineSpec, stream: Stream) -> Engine:
        self.measured = True
        return super().load(spec, stream)


class Device:
    """A cache with a budget, and what it said."""

    def __init__(self, budget: int, refusals: int = 0, backend: Sized | None = None) -> None:
        self.backend = backend or Sized(refusals)
        self.used: list[Engine] = []
        self.loaded: list[str] = []
        self.closed: list[str] = []
        self._streams = {
            network: self.backend.device.create_stream(network)
            for network in ("text_encoder", "denoiser", "vae_decoder")
        }
        self._models = {name: replace(SHIPPED, name=name) for name in "abc"}  # one object each, as in the worker
        self.cache = EngineCache(
            budget,
            in_use=lambda: self.used,
            loading=lambda spec: self.loaded.append(spec.label),
            loaded=lambda spec: None,
            closing=lambda engine: self.closed.append(engine.label.split("/")[0]),
            clock=self._clock,
        )

    def _clock(self) -> float:
        self.backend.seconds += TICK
        return self.backend.seconds

    def get(self, model: str, *rows: int, network: str = "denoiser") -> Engine:
        buckets = [Bucket(width=64, height=64, rows=count) for count in rows or (1,)]
        specs = [EngineSpec(model=self._models[model], network=network, bucket=one) for one in buckets]
        return self.cache.get(self.backend, specs, self._streams[network])

    def load_seconds(self, model: str) -> float:
        return self.cache.load_seconds(self.backend.name, model, "denoiser")


def test_an_engine_is_loaded_once() -> None:
    device = Device(100)

    assert device.get("a") is device.get("a")
    assert len(device.loaded) == 1


def test_buckets_of_one_network_share_its_weights() -> None:
    device = Device(13)

    device.get("a", 1)
    device.get("a", 3)

    assert device.closed == []


def test_the_least_recently_used_network_leaves_when_another_needs_its_room() -> None:
    device = Device(22)
    device.get("a")
    device.get("b")
    device.get("a")

    device.get("c")

    assert device.closed == ["b"]
    assert device.backend.unloaded == ["b"]
    assert device.cache.models == {"a", "c"}


def test_an_engine_in_use_stays_and_the_next_one_is_refused_with_the_figures() -> None:
    device = Device(12)
    device.used = [device.get("a")]

    with pytest.raises(OutOfMemory, match=r"b/denoiser on dummy takes .* with the engines in use"):
        device.get("b")

    assert device.cache.models == {"a"}


def test_fewer_rows_are_taken_before_a_network_is_refused() -> None:
    device = Device(14)

    assert device.get("a", 8, 4, 2).rows == 4


def test_when_the_library_finds_no_room_everything_idle_is_closed_and_it_is_asked_once_more() -> None:
    device = Device(100)
    device.get("a")
    device.backend.refusals = 1

    device.get("b")

    assert device.closed == ["a"]
    assert device.cache.models == {"b"}


def test_when_it_finds_none_again_the_fault_is_told_and_nothing_is_kept() -> None:
    device = Device(100, refusals=2)

    with pytest.raises(OutOfMemory, match="the card is full"):
        device.get("a")

    assert device.cache.models == frozenset()


def test_a_network_is_as_far_away_as_its_last_load_took_and_not_at_all_while_it_is_in_memory() -> None:
    device = Device(12)
    before = device.load_seconds("a")
    device.backend.load_seconds = 7.0
    device.get("a")
    resident = device.load_seconds("a")
    device.get("b")

    assert (before, resident) == (FIRST_LOAD_SECONDS, 0.0)
    assert device.load_seconds("a") == pytest.approx(7.0, abs=2 * TICK)


def test_another_bucket_of_a_resident_network_says_nothing_about_loading_its_weights() -> None:
    device = Device(14)
    device.backend.load_seconds = 7.0
    device.get("a", 1)
    device.backend.load_seconds = 0.1
    device.get("a", 2)
    device.get("b")

    assert device.load_seconds("a") == pytest.approx(7.0, abs=2 * TICK)


def test_activations_of_denoiser_and_decoder_add_up_because_they_run_side_by_side() -> None:
    device = Device(27)
    device.used = [device.get("a", 4)]

    with pytest.raises(OutOfMemory, match="vae_decoder on dummy"):
        device.get("a", 4, network="vae_decoder")

    assert device.get("a", 3, network="vae_decoder").rows == 3


def test_the_tensors_of_every_loaded_bucket_are_counted() -> None:
    device = Device(23, backend=Tensors())
    device.get("a", 1)
    device.get("a", 4)
    device.get("a", 2)

    assert device.cache.taken == 10 + 4 + 7


def test_buckets_of_the_network_itself_are_closed_before_it_is_refused() -> None:
    device = Device(22, backend=Tensors())
    device.get("a", 4)
    device.get("a", 3)

    engine = device.get("a", 6)

    assert engine.rows == 6
    assert device.closed == ["a", "a"]
    assert device.backend.unloaded == []
    assert device.cache.taken == 22


def test_weights_of_an_engine_stay_when_its_buckets_are_closed() -> None:
    device = Device(26, backend=TwoEngines())
    device.get("a", 4)

    device.get("a", 6)

    assert device.closed == ["a"]
    assert device.cache.taken == 10 + 10 + 6
    assert device.backend.unloaded == []


def test_a_network_is_loaded_anew_where_its_other_engine_is_in_the_way() -> None:
    device = Device(25, backend=TwoEngines())
    device.get("a", 4)
    device.backend.load_seconds = 7.0

    assert device.get("a", 6, 3).rows == 6  # and not fewer rows

    assert device.backend.unloaded == ["a"]
    assert device.cache.taken == 10 + 6
    device.used = [device.get("a", 6)]
    with pytest.raises(OutOfMemory, match="a/denoiser on dummy takes"):
        device.get("a", 4)


def test_streaming_is_chosen_again_when_a_network_is_loaded_anew() -> None:
    backend = Streaming()
    device = Device(14, backend=backend)
    device.get("a", 8)

    device.get("a", 11)

    assert backend.streamed == [4, 8]
    assert device.cache.taken == 2 + 11


def test_weights_are_streamed_before_fewer_rows_are_taken() -> None:
    backend = Streaming()
    device = Device(14, backend=backend)

    engine = device.get("a", 8, 4)

    assert (engine.rows, backend.streamed) == (8, [4])
    assert device.cache.taken == 14


def test_fewer_rows_are_taken_where_streaming_all_is_not_enough() -> None:
    backend = Streaming()
    device = Device(9, backend=backend)

    assert (device.get("a", 8, 4).rows, backend.streamed) == (4, [6])


def test_a_further_bucket_of_a_streaming_network_finds_its_weights_as_they_are() -> None:
    backend = Streaming()
    device = Device(14, backend=backend)
    device.get("a", 8)

    device.get("a", 2)

    assert backend.streamed == [4, 0]
    assert device.cache.taken == 14


def test_what_a_backend_learns_by_loading_counts_from_then_on() -> None:
    device = Device(40, backend=Measured())
    device.get("a", 5)

    assert device.cache.taken == 10 + 15


def test_what_others_allocate_is_room_that_engines_do_not_have() -> None:
    device = Device(20)
    device.cache.reserve("a batch", 8, "a batch")

    assert device.get("a", 4, 2).rows == 2
    device.cache.release("a batch")
    assert device.get("b", 4, 2).rows == 4


def test_idle_networks_leave_for_what_is_reserved() -> None:
    device = Device(33)
    device.get("a")
    device.get("b")

    device.cache.reserve("a batch", 20, "a batch")

    assert device.closed == ["a"]


def test_what_does_not_fit_beside_engines_in_use_is_not_reserved_and_what_was_stays() -> None:
    device = Device(33)
    device.used = [device.get("a")]
    device.cache.reserve("a batch", 2, "a batch")

    with pytest.raises(OutOfMemory, match="a batch takes"):
        device.cache.reserve("a batch", 23, "a batch")

    assert device.cache.taken == 13
