"""Publishing, finding and verifying engines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trt_engines.store.errors import DamagedEngine, NewerManifest, UncertifiedEngine, UnknownEngine
from trt_engines.store.identity import Identity, digest
from trt_engines.store.manifest import Certificate, decode_manifest, encode_manifest
from trt_engines.store.store import Store
from trt_engines.store.stored import FileState, Stored

MakeIdentity = Callable[..., Identity]
MakeEngine = Callable[..., Stored]


def flip_a_bit(path: Path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_an_engine_is_found_by_what_it_is(store: Store, identity: MakeIdentity, engine: MakeEngine) -> None:
    assert store.find(identity()) is None

    made = engine(store, b"bytes of a plan")

    found = store.find(identity())
    assert found == made
    assert found.digest == digest(identity())
    assert bytes(found.read("engine.plan")) == b"bytes of a plan"
    assert store.find(identity(library_version="1.8")) is None
    assert store.verify(found.digest) == found


def test_the_manifest_says_all_that_is_known(store: Store, identity: MakeIdentity, engine: MakeEngine) -> None:
    manifest = engine(store, b"x" * 30, models=("Deliberate", "Deliberate 2")).manifest

    assert manifest.identity == identity()
    assert (manifest.models, manifest.size, manifest.seconds) == (("Deliberate", "Deliberate 2"), 30, 1.5)
    assert (manifest.peak_bytes, manifest.log, manifest.certificate.figures) == (10**9, ("built",), {"psnr": 48.0})
    assert manifest.created.utcoffset() is not None
    assert decode_manifest(encode_manifest(manifest), "here") == manifest


def test_what_a_build_left_beside_the_engine_is_not_published(store: Store, identity: MakeIdentity) -> None:
    with store.building(identity()) as staging:
        staging.write("graph.onnx", b"graph")
        staging.phase_done("export", ("graph.onnx",), seconds=1.0)
        staging.write("engine.plan", b"plan")
        staging.phase_done("build", ("engine.plan",), seconds=2.0)
        staging.path("scratch").write_bytes(b"scratch")
        made = staging.publish(models=("m",), certificate=Certificate(verdict="passed"), files=("engine.plan",))

    assert sorted(path.name for path in made.folder.iterdir()) == ["engine.plan", "manifest.json", "used"]
    assert [phase.name for phase in made.manifest.phases] == ["export", "build"]
    assert store.unfinished() == ()


def test_an_engine_that_failed_its_certificate_is_kept_and_never_served(
    store: Store, identity: MakeIdentity, engine: MakeEngine
) -> None:
    made = engine(store, verdict="failed")

    assert store.find(identity()) is None
    assert store.get(made.digest) == made
    with pytest.raises(UncertifiedEngine, match="failed its fidelity certificate"):
        store.verify(made.digest)

    mended = engine(store, b"better")
    assert store.find(identity()) == mended


def test_a_truncated_plan_is_never_served(store: Store, identity: MakeIdentity, engine: MakeEngine) -> None:
    made = engine(store)
    os.truncate(made.path("engine.plan"), 17)

    with pytest.raises(DamagedEngine, match=r"engine\.plan has 17 bytes, 4,000 were published.*rebuild"):
        store.find(identity())
    with pytest.raises(DamagedEngine, match="17 bytes"):
        made.read("engine.plan")


def test_a_missing_plan_is_never_served(store: Store, identity: MakeIdentity, engine: MakeEngine) -> None:
    engine(store).path("engine.plan").unlink()

    with pytest.raises(DamagedEngine, match=r"engine\.plan is missing"):
        store.find(identity())


def test_a_flipped_bit_is_met_by_the_loader_and_from_then_on_by_everybody(
    store: Store, identity: MakeIdentity, engine: MakeEngine
) -> None:
    made = engine(store)
    flip_a_bit(made.path("engine.plan"))

    with pytest.raises(DamagedEngine, match=r"engine\.plan has other bytes than were published"):
        made.read("engine.plan")
    with pytest.raises(DamagedEngine, match="not served"):
        store.find(identity())


def test_bytes_that_were_compared_are_not_compared_again_until_the_file_changes(
    store: Store, engine: MakeEngine
) -> None:
    made, verified = engine(store), set[FileState]()
    with made.mapped("engine.plan", verified):
        pass
    path = made.path("engine.plan")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    flip_a_bit(path)
    os.utime(path, ns=times)  # a change that only reading every byte could find

    with made.mapped("engine.plan", verified):
        pass
    os.utime(path, ns=(times[0], times[1] + 1))
    with pytest.raises(DamagedEngine, match="other bytes"), made.mapped("engine.plan", verified):
        pass


def test_a_plan_is_mapped_no_longer_than_it_is_looked_at(store: Store, engine: MakeEngine) -> None:
    made = engine(store)

    with made.mapped("engine.plan") as plan:
        during = mapped_files()

    assert str(made.path("engine.plan")) in during
    assert str(made.path("engine.plan")) not in mapped_files()
    with pytest.raises(ValueError, match="released"):
        plan[0]


def test_bytes_that_are_held_longer_than_they_are_mapped_are_an_error(store: Store, engine: MakeEngine) -> None:
    held = []

    with pytest.raises(BufferError), engine(store).mapped("engine.plan") as plan:
        held.append(plan[:4])


def mapped_files() -> str:
    return Path("/proc/self/maps").read_text()


def test_a_flipped_bit_that_verify_meets_is_remembered_until_it_is_mended(
    store: Store, identity: MakeIdentity, engine: MakeEngine
) -> None:
    made = engine(store)
    flip_a_bit(made.path("engine.plan"))
    with pytest.raises(DamagedEngine, match="other bytes"):
        store.verify(made.digest)
    with pytest.raises(DamagedEngine, match="other bytes"):
        store.find(identity())
    assert [entry.state for entry in store.entries()] == ["damaged"]

    flip_a_bit(made.path("engine.plan"))

    assert store.verify(made.digest) == store.find(identity()) == made


def test_a_damaged_engine_is_built_anew(store: Store, identity: MakeIdentity, engine: MakeEngine) -> None:
    os.truncate(engine(store, b"old").path("engine.plan"), 1)

    made = engine(store, b"new")

    assert bytes(made.read("engine.plan")) == b"new"
    assert list(store.trash.iterdir()) == []


def test_a_manifest_of_a_newer_worker_is_neither_served_nor_overwritten(
    store: Store, identity: MakeIdentity, engine: MakeEngine
) -> None:
    path = engine(store).folder / "manifest.json"
    path.write_text(json.dumps({"schema": 99, "something": "new"}))

    with pytest.raises(NewerManifest, match=r"newer worker.*update"):
        store.find(identity())
    with pytest.raises(NewerManifest, match="newer worker"), store.building(identity()):
        pass
    assert [(entry.state, entry.manifest) for entry in store.entries()] == [("newer", None)]
    assert json.loads(path.read_bytes())["schema"] == 99


@pytest.mark.parametrize(
    "change",
    [
        {"files": {}},
        {"files": {"../engine.plan": {"size": 1, "sha256": "a" * 64}}},
        {"files": {"manifest.json": {"size": 1, "sha256": "a" * 64}}},
        {"certificate": {"verdict": "maybe"}},
        {"unheard": 1},
        {"schema": 0},
        {"identity": {}},
    ],
)
def test_an_impossible_manifest_is_damage(
    store: Store, identity: MakeIdentity, engine: MakeEngine, change: dict[str, object]
) -> None:
    path = engine(store).folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))

    with pytest.raises(DamagedEngine, match=r"manifest\.json"):
        store.find(identity())


def test_a_manifest_of_an_older_worker_that_knew_nothing_of_memory_is_read(
    store: Store, identity: MakeIdentity, engine: MakeEngine
) -> None:
    made = engine(store)
    path = made.folder / "manifest.json"
    fields = json.loads(path.read_bytes())
    del fields["memory"]
    path.write_text(json.dumps(fields | {"schema": 1}))

    found = store.find(identity())

    assert found is not None
    assert found.manifest.memory is None


@pytest.mark.parametrize("data", [b"", b"\x00\xff", b"{}", b"[1]", b'{"schema": "1"}'])
def test_a_manifest_that_is_no_json_object_is_damage(
    store: Store, identity: MakeIdentity, engine: MakeEngine, data: bytes
) -> None:
    (engine(store).folder / "manifest.json").write_bytes(data)

    with pytest.raises(DamagedEngine, match=r"manifest\.json"):
        store.find(identity())


def test_an_engine_in_another_ones_place_is_damage(store: Store, identity: MakeIdentity, engine: MakeEngine) -> None:
    made = engine(store)
    made.folder.rename(store.engines / digest(identity(precision="bfloat16")))

    with pytest.raises(DamagedEngine, match="not the one its folder is named for"):
        store.find(identity(precision="bfloat16"))


def test_the_start_of_a_digest_names_an_engine(store: Store, engine: MakeEngine) -> None:
    one, two = engine(store), engine(store, precision="bfloat16")

    assert store.resolve(one.digest[:8].upper()) == one.digest
    with pytest.raises(UnknownEngine, match="2 engines start"):
        store.resolve("")
    with pytest.raises(UnknownEngine, match="no engine starts with 'zz'"):
        store.resolve("zz")
    assert {entry.digest for entry in store.entries()} == {one.digest, two.digest}


def test_a_use_is_noted(store: Store, engine: MakeEngine) -> None:
    made = engine(store)
    os.utime(made.folder / "used", (1000, 1000))
    assert made.last_used == store.entries()[0].last_used == 1000

    made.mark_used()

    assert made.last_used > 1000


def test_a_store_that_is_not_there_is_empty(store: Store, identity: MakeIdentity) -> None:
    assert store.find(identity()) is None
    assert store.entries() == store.unfinished() == ()
    assert not store.root.exists()
