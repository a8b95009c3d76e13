"""Which stored engine serves a network on a card, and what an operator is told where none does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trt_engines.backend import EngineSpec
from trt_engines.backends.footprint import LEAST_ACTIVATIONS
from trt_engines.backends.ladder import make_backends
from trt_engines.backends.stored_source import StoredSource, installed_version
from trt_engines.bucket import Bucket
from trt_engines.errors import EngineRefused, OutOfMemory, StaleEngine
from trt_engines.model import find_models
from trt_engines.residency import Footprint
from trt_engines.store.identity import Identity, InputRange
from trt_engines.store.manifest import Certificate, DeviceMemory
from trt_engines.store.place import VARIABLE
from trt_engines.store.store import Store
from trt_engines.store.stored import Stored

SHIPPED = find_models()["shapes-tiny"]
WEIGHTS = "b" * 64
MODEL = replace(SHIPPED, networks={name: replace(files, digest=WEIGHTS) for name, files in SHIPPED.networks.items()})
INSTALLED = "1.7.1.116"


def a_spec(network: str = "denoiser", rows: int = 8, width: int = 128) -> EngineSpec:
    return EngineSpec(model=MODEL, network=network, bucket=Bucket(width=width, height=64, rows=rows))


def ranges(network: str, low: Bucket, high: Bucket) -> tuple[InputRange, ...]:
    ends = [EngineSpec(model=MODEL, network=network, bucket=bucket).interface.inputs for bucket in (low, high)]
    return tuple(
        InputRange(name=one.name, min=one.shape, opt=other.shape, max=other.shape)
        for one, other in zip(*ends, strict=True)
    )


def built(
    store: Store,
    *,
    models: tuple[str, ...] = (MODEL.name,),
    verdict: Any = "passed",
    memory: DeviceMemory | None = None,
    **changes: Any,
) -> Stored:
    """An engine of the denoiser for 1 to 8 rows of up to 256 pixels, with bytes that no library would take."""
    low, high = Bucket(width=64, height=64, rows=1), Bucket(width=256, height=256, rows=8, tokens=231)
    fields: dict[str, Any] = {
        "architecture": MODEL.architecture,
        "component": "denoiser",
        "graph": "a" * 64,
        "weights": WEIGHTS,
        "precision": "float16",
        "profiles": (ranges("denoiser", low, high),),
        "flags": {},
        "library": "tensorrt-rtx",
        "library_version": INSTALLED,
        "compute_capabilities": (86, 89),
    }
    with store.building(Identity(**(fields | changes))) as staging:
        staging.write("engine.plan", b"plan" * 1000)
        staging.phase_done("build", ("engine.plan",), seconds=1.0)
        return staging.publish(
            models=models, certificate=Certificate(verdict=verdict), files=("engine.plan",), memory=memory
        )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def a_source(store: Store, library: str = "tensorrt-rtx", **changes: Any) -> StoredSource:
    return StoredSource(library, store, **({"installed": INSTALLED, "sm": 86} | changes))


def test_an_engine_of_the_network_for_this_card_and_bucket_is_found(store: Store) -> None:
    engine, source = built(store), a_source(store)

    assert source.refuses(a_spec()) is None
    assert source.engine_of(a_spec()) == source.engine_of(a_spec(rows=2, width=256)) == engine.digest
    assert source.footprint(a_spec()).weights == 4000


def test_an_engine_is_known_by_its_weights_whatever_the_model_was_called(store: Store) -> None:
    engine = built(store, models=("another",))

    assert a_source(store).engine_of(a_spec()) == engine.digest


def test_what_an_engine_takes_is_what_its_builder_told_for_the_share_of_a_bucket(store: Store) -> None:
    engine = built(store, memory=DeviceMemory(weights=3000, activations=(1 << 30,)), flags={"weight_streaming": True})
    spec = a_spec(rows=4)  # half of the rows, half of the width and a quarter of the height

    assert a_source(store).footprint(spec) == Footprint(
        weights=3000,
        activations=(1 << 30) // 16 + LEAST_ACTIVATIONS,
        tensors=spec.interface.bytes,
        streamable=3000,
        engine=engine.digest,
    )


def test_an_engine_that_was_not_built_for_it_streams_nothing(store: Store) -> None:
    built(store, flags={"weight_streaming": False})

    assert a_source(store).footprint(a_spec()).streamable == 0


@pytest.mark.parametrize(("streams", "needed"), [(False, 4000), (True, 8000)])
def test_too_little_memory_of_the_machine_is_told_before_anything_is_read(
    store: Store, streams: bool, needed: int
) -> None:
    built(store, flags={"weight_streaming": streams}).path("engine.plan").write_bytes(b"nalp" * 1000)

    with pytest.raises(OutOfMemory, match="of the machine's own memory"):
        a_source(store, host_memory=lambda: needed - 1).open(a_spec())
    with pytest.raises(StaleEngine):  # it was read
        a_source(store, host_memory=lambda: needed).open(a_spec())


def test_an_engine_that_is_published_later_is_found_by_a_source_that_had_none(store: Store) -> None:
    source = a_source(store)
    assert source.refuses(a_spec()) == (
        "no tensorrt-rtx engine of shapes-tiny/denoiser was built: ./horde-bridge.sh build shapes-tiny"
    )

    built(store)

    assert source.refuses(a_spec()) is None
    assert source.refuses(a_spec("vae_decoder")) is not None


def test_of_several_engines_the_one_built_last_that_covers_the_bucket_serves(store: Store) -> None:
    wide = built(store)
    only = Bucket(width=64, height=64, rows=8)
    narrow = built(store, profiles=(ranges("denoiser", replace(only, rows=1), only),))
    source = a_source(store)

    assert source.engine_of(a_spec(width=64)) == narrow.digest
    assert source.engine_of(a_spec(width=256)) == wide.digest


@pytest.mark.parametrize(
    ("engine", "card", "reason"),
    [
        (
            {"weights": "c" * 64},
            {},
            "other weights, so the checkpoint has changed: ./horde-bridge.sh build shapes-tiny",
        ),
        ({"architecture": "flux"}, {}, "was built: ./horde-bridge.sh build shapes-tiny"),
        ({"library": "tensorrt"}, {}, "no tensorrt-rtx engine"),
        ({"verdict": "failed"}, {}, "failed its fidelity certificate"),
        ({}, {"sm": 120}, "built for SM86, SM89, and this card is SM120: rebuild it for this card (./horde-bridge.sh"),
        (
            {"schema": 1},
            {},
            "an older version of this worker built it, whose networks take or give something else: reb",
        ),
        ({"profiles": ((InputRange(name="sample", min=(1,), opt=(1,), max=(1,)),),)}, {}, "inputs context, timestep"),
        ({}, {"installed": None}, "tensorrt-rtx is not installed: ./horde-bridge.sh installs it"),
        ({}, {"sm": None}, "this device has no NVIDIA card"),
    ],
)
def test_what_is_wrong_with_an_engine_is_said_in_one_line(
    store: Store, engine: dict[str, Any], card: dict[str, Any], reason: str
) -> None:
    built(store, **engine)

    refusal = a_source(store, **card).refuses(a_spec())

    assert refusal is not None
    assert reason in refusal
    assert "\n" not in refusal


def test_a_tensorrt_engine_of_another_version_is_to_be_built_again(store: Store) -> None:
    built(store, library="tensorrt", library_version="10.9")

    refusal = a_source(store, "tensorrt", installed="11.4").refuses(a_spec())

    assert refusal is not None
    assert "built with version 10.9, and 11.4 is installed: rebuild it (./horde-bridge.sh build shapes-tiny)" in refusal


@pytest.mark.parametrize("other", ["1.6.0.7", "1.7.2.5", "2.0.0.1"])
def test_an_rtx_engine_of_another_release_is_to_be_built_again(store: Store, other: str) -> None:
    built(store, library_version=other)

    refusal = a_source(store).refuses(a_spec())

    assert refusal is not None
    assert f"built with version {other}, and {INSTALLED} is installed: rebuild it" in refusal


def test_another_build_of_the_same_rtx_release_serves(store: Store) -> None:
    built(store, library_version="1.7.1.999")

    assert a_source(store).refuses(a_spec()) is None


def test_a_bucket_that_no_profile_takes_is_named(store: Store) -> None:
    built(store)

    for spec in (a_spec(width=512), a_spec(rows=16)):
        with pytest.raises(EngineRefused, match=f"no profile for {spec.bucket.label}"):
            a_source(store).engine_of(spec)


def test_a_damaged_plan_is_stale_before_any_library_or_card_is_touched(store: Store) -> None:
    engine = built(store)
    engine.path("engine.plan").write_bytes(b"nalp" * 1000)

    with pytest.raises(StaleEngine, match=r"engine\.plan.*horde-bridge\.sh build shapes-tiny"):
        a_source(store, open_device=lambda: pytest.fail("a device was made")).open(a_spec())


def test_a_damaged_manifest_is_passed_over(store: Store) -> None:
    built(store)
    other = built(store, weights="c" * 64)
    (other.folder / "manifest.json").write_bytes(b"{")

    assert a_source(store).refuses(a_spec()) is None


def test_the_ladder_looks_where_the_operator_keeps_engines(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    built(store)
    monkeypatch.setenv(VARIABLE, str(store.root))

    (here,) = make_backends(["tensorrt-rtx"], sm=89)
    (elsewhere,) = make_backends(["tensorrt-rtx"], sm=90)

    assert here.refuses(a_spec()) is None
    assert "this card is SM90" in str(elsewhere.refuses(a_spec()))


def test_the_version_of_a_library_is_told_without_loading_it() -> None:
    import tensorrt_rtx

    assert installed_version("tensorrt-rtx") == tensorrt_rtx.__version__
