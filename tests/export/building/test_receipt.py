"""What makes a receipt void: anything that could make other engines, and engines that are not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trt_engines.store.identity import Identity
from trt_engines.store.manifest import Certificate
from trt_engines.store.store import Store
from trt_engines.store.stored import Stored
from trt_export.building.located import Located
from trt_export.building.receipt import keep, standing

ASKED = {"targets": [["RTX 3060", 86, 12, True]], "histogram": None}


def an_engine(store: Store, *, passed: bool = True) -> Stored:
    identity = Identity(
        architecture="stable_diffusion_1",
        component="denoiser",
        graph="a" * 64,
        weights="b" * 64,
        precision="float16",
        profiles=(),
        flags={},
        library="tensorrt-rtx",
        library_version="1.7",
        compute_capabilities=(86,),
    )
    with store.building(identity) as staging:
        staging.write("engine.plan", b"plan" * 100)
        staging.phase_done("build", ("engine.plan",), seconds=1.0)
        certificate = Certificate(verdict="passed" if passed else "failed")
        return staging.publish(models=("m",), certificate=certificate, files=("engine.plan",))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def model(tmp_path: Path) -> Located:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "model.safetensors").write_bytes(b"weights")
    (folder / "unet" / "config.json").write_bytes(b"{}")
    (folder / "MODEL.md").write_bytes(b"about it")
    return Located(name="model", path=folder)


def test_a_receipt_gives_the_engines_of_the_build_that_left_it(store: Store, model: Located) -> None:
    assert standing(store, model, ASKED) is None
    engine = an_engine(store)
    keep(store, model, ASKED, [engine.digest])

    assert standing(store, model, ASKED) == (engine,)


def touch(file: Path) -> None:
    os.utime(file, ns=(1, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "unet" / "model.safetensors").write_bytes(b"others!"),
        lambda folder: touch(folder / "unet" / "model.safetensors"),
        lambda folder: (folder / "unet" / "config.json").write_bytes(b'{"a": 1}'),
        lambda folder: (folder / "unet" / "more.safetensors").write_bytes(b"w"),
    ],
    ids=["weights", "time", "configuration", "another file"],
)
def test_a_changed_model_voids_it(store: Store, model: Located, change: Callable[[Path], object]) -> None:
    keep(store, model, ASKED, [an_engine(store).digest])

    change(model.path)

    assert standing(store, model, ASKED) is None


def test_a_file_that_decides_nothing_leaves_it_valid(store: Store, model: Located) -> None:
    keep(store, model, ASKED, [an_engine(store).digest])

    (model.path / "MODEL.md").write_bytes(b"more about it")

    assert standing(store, model, ASKED) is not None


def test_it_answers_only_what_was_asked_then(store: Store, model: Located) -> None:
    keep(store, model, ASKED, [an_engine(store).digest])

    assert standing(store, model, ASKED | {"histogram": "c" * 64}) is None
    assert standing(store, model, ASKED) is not None


@pytest.mark.parametrize(
    "damage",
    [
        lambda engine: os.truncate(engine.path("engine.plan"), 10),
        lambda engine: (engine.folder / "manifest.json").write_bytes(b'{"schema": 99}'),
        lambda engine: engine.path("engine.plan").unlink(),
    ],
    ids=["truncated", "newer", "missing"],
)
def test_an_engine_that_cannot_be_served_voids_it(
    store: Store, model: Located, damage: Callable[[Stored], object]
) -> None:
    engine = an_engine(store)
    keep(store, model, ASKED, [engine.digest])

    damage(engine)

    assert standing(store, model, ASKED) is None


def test_an_engine_that_failed_its_certificate_voids_it(store: Store, model: Located) -> None:
    keep(store, model, ASKED, [an_engine(store, passed=False).digest])

    assert standing(store, model, ASKED) is None


def test_a_receipt_that_cannot_be_read_is_none(store: Store, model: Located) -> None:
    keep(store, model, ASKED, [an_engine(store).digest])
    (receipt,) = (store.root / "receipts").iterdir()
    receipt.write_bytes(b"{")

    assert standing(store, model, ASKED) is None
