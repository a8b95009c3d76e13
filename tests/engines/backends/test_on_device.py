"""Engines on a device: rows up, a call, rows down; types converted, sessions shared, memory given back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.backend import Engine, EngineSpec
from trt_engines.backends.graph_source import CARD_VARIABLE, simulated_card
from trt_engines.backends.ladder import make_backends
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.bucket import Bucket
from trt_engines.cards import UnknownCard
from trt_engines.devices.device import DeviceProperties
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import EngineRefused, OutOfMemory
from trt_engines.model import find_models
from trt_engines.residency import Footprint
from trt_engines.sessions.host import HostPlan, HostSession
from trt_engines.sessions.session import Declared, ShapeRange

MODEL = find_models()["shapes-tiny"]
LAYERS = 2


def a_spec(network: str = "denoiser", rows: int = 4, width: int = 64) -> EngineSpec:
    return EngineSpec(model=MODEL, network=network, bucket=Bucket(width=width, height=64, rows=rows))


def halved(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {"noise_pred": inputs["sample"] / inputs["sample"].dtype.type(2)}


def layered(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    rows = np.repeat(inputs["input_ids"][:, :, None], 768, axis=2).astype(np.float32)
    return {"context": np.stack([rows, -rows])}


@dataclass
class Source:
    """Sessions over `network`, whose tensors are of `dtype`, and one more of each in `extra`."""

    network: Any = halved
    dtype: Any = np.float32
    memory: int = 2**24
    extra: tuple[str, ...] = ()
    activation: int = 1
    odd: Mapping[str, Any] = field(default_factory=dict)  # tensors that are of other types
    opened: int = 0
    device: SimulatedDevice = field(init=False)

    def __post_init__(self) -> None:
        self.device = SimulatedDevice(DeviceProperties(name="a", sm=89, memory_bytes=self.memory, multiprocessors=1))

    def refuses(self, spec: EngineSpec) -> str | None:
        return None

    def footprint(self, spec: EngineSpec) -> Footprint:
        return Footprint(weights=0)

    def engine_of(self, spec: EngineSpec) -> str:
        return "any width"

    def open(self, spec: EngineSpec) -> HostSession:
        self.opened += 1
        bucket = Bucket(width=512, height=512, rows=8)
        interface = EngineSpec(model=MODEL, network=spec.network, bucket=bucket).interface
        tensors = {one.name: one.dtype for one in (*interface.inputs, *interface.outputs)}
        floats = {name for name, dtype in tensors.items() if dtype == np.float32 and name != "timestep"}
        kinds = {name: np.dtype(self.dtype if name in floats else dtype) for name, dtype in tensors.items()}
        kinds |= {name: np.dtype(dtype) for name, dtype in self.odd.items()}
        shapes = {one.name: one.shape for one in (*interface.inputs, *interface.outputs)}
        if spec.network == "text_encoder":
            shapes["context"] = (LAYERS, *shapes["context"][1:])
        profile = {
            one.name: ShapeRange(min=(1,) * len(one.shape), opt=one.shape, max=one.shape) for one in interface.inputs
        }
        plan = HostPlan(
            label="a/network",
            network=self.network,
            profiles=(profile,),
            tensors={name: Declared(dtype=kinds[name], shape=shapes[name]) for name in tensors}
            | {name: Declared(dtype=np.dtype(self.dtype), shape=(1,)) for name in self.extra},
            weight_bytes=1024,
            activation_bytes=self.activation,
        )
        return HostSession(self.device, plan)


def load(backend: OnDeviceBackend, spec: EngineSpec) -> Engine:
    return backend.load(spec, backend.device.create_stream("work"))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_an_engine_has_the_types_that_it_declares(dtype: Any) -> None:
    engine = load(OnDeviceBackend("a", Source(dtype=dtype)), a_spec())

    assert engine.tensor("sample").dtype == engine.tensor("noise_pred").dtype == dtype
    assert engine.tensor("timestep").dtype == np.float32


def test_a_text_encoder_has_the_layers_that_it_declares() -> None:
    engine = load(OnDeviceBackend("a", Source(layered)), a_spec("text_encoder", rows=3))

    assert engine.tensor("context").shape[:2] == (LAYERS, 3)


def test_engines_of_a_stream_share_the_memory_of_their_calls() -> None:
    source = Source(activation=4096)
    backend = OnDeviceBackend("a", source)
    one, other = (backend.device.create_stream(name) for name in ("one", "other"))
    free = [source.device.memory_info().free]
    for width, stream in ((64, one), (64, one), (64, other)):
        backend.load(a_spec(width=width), stream)
        free.append(source.device.memory_info().free)

    first, second, third = (before - after for before, after in pairwise(free))
    assert third - second == 4096
    assert first - 1024 == third  # beside the weights


def test_buckets_of_a_network_share_its_session_until_it_is_unloaded() -> None:
    source = Source()
    backend = OnDeviceBackend("a", source)
    engines = [load(backend, a_spec()), load(backend, a_spec(width=128))]
    assert source.opened == 1

    for engine in engines:
        engine.close()
    backend.unload(MODEL, "denoiser")

    assert source.device.memory_info().free == source.memory
    load(backend, a_spec())
    assert source.opened == 2


def test_a_load_without_room_leaves_nothing_behind() -> None:
    source = Source(memory=2048)  # for the weights, and not for the tensors

    with pytest.raises(OutOfMemory):
        load(OnDeviceBackend("a", source), a_spec())

    assert source.device.memory_info().free == 2048


def test_an_engine_with_other_tensors_than_the_worker_gives_is_refused_by_their_names() -> None:
    source = Source(extra=("pooled", "time_ids"))

    with pytest.raises(EngineRefused, match="pooled, time_ids"):
        load(OnDeviceBackend("a", source), a_spec())

    assert source.device.memory_info().free == source.memory


@pytest.mark.parametrize(("tensor", "dtype"), [("timestep", np.float16), ("sample", np.int32), ("context", np.int64)])
def test_an_engine_with_a_type_that_the_worker_does_not_give_is_refused(tensor: str, dtype: Any) -> None:
    with pytest.raises(EngineRefused, match=f"{tensor} is {np.dtype(dtype)} in the engine"):
        load(OnDeviceBackend("a", Source(odd={tensor: dtype})), a_spec())


def test_more_rows_than_the_bucket_has_are_refused() -> None:
    with pytest.raises(ValueError, match="5 rows asked of 4"):
        load(OnDeviceBackend("a", Source()), a_spec()).run(5)


def test_the_simulated_card_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert simulated_card({}).name == "RTX 4090"
    assert simulated_card({CARD_VARIABLE: "GTX 1660"}).sm == 75
    monkeypatch.setenv(CARD_VARIABLE, "RTX 9999")
    with pytest.raises(UnknownCard, match="9999"):
        make_backends(["simulated"])
