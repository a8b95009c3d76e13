"""Engines that travel."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trt_engines.store.archive import export_engine, import_engine
from trt_engines.store.errors import BadArchive, DamagedEngine, NewerManifest, StoreError, UncertifiedEngine
from trt_engines.store.identity import Identity, digest
from trt_engines.store.store import Store
from trt_engines.store.stored import Stored

MakeIdentity = Callable[..., Identity]
MakeEngine = Callable[..., Stored]
PLAN = bytes(range(256)) * 20


@pytest.fixture
def there(tmp_path: Path) -> Store:
    """The store of another rig."""
    return Store(tmp_path / "there")


@pytest.fixture
def archive(store: Store, engine: MakeEngine, tmp_path: Path) -> Path:
    return export_engine(store, engine(store, PLAN).digest, tmp_path)


def members_of(archive: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(archive) as tar:
        return [(member, (tar.extractfile(member) or io.BytesIO()).read()) for member in tar.getmembers()]


def written(archive: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: Any = "w") -> Path:
    with tarfile.open(archive, mode) as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return archive


def named(name: str, data: bytes, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, data


def is_untouched(there: Store) -> bool:
    left = list(there.staging.iterdir()) if there.staging.exists() else []
    return there.entries() == () and left == []


def test_an_engine_arrives_as_it_left(store: Store, there: Store, identity: MakeIdentity, archive: Path) -> None:
    imported = import_engine(there, archive)

    assert imported == there.find(identity())
    sent = store.find(identity())
    assert sent is not None
    assert imported.manifest == sent.manifest
    assert bytes(imported.read("engine.plan")) == PLAN
    assert list(there.staging.iterdir()) == []


def test_the_same_engine_gives_the_same_archive_with_the_manifest_first(
    store: Store, archive: Path, tmp_path: Path, identity: MakeIdentity
) -> None:
    found = store.find(identity())
    assert found is not None
    again = export_engine(store, found.digest, tmp_path / "again.tar")

    assert again.read_bytes() == archive.read_bytes()
    names = [f"{found.digest}/manifest.json", f"{found.digest}/engine.plan"]
    assert [member.name for member, _ in members_of(archive)] == names
    assert archive.name == f"engine-{found.digest[:16]}.tar"


def test_importing_again_leaves_the_engine_alone(there: Store, archive: Path) -> None:
    first = import_engine(there, archive)
    os.utime(first.path("engine.plan"), (1000, 1000))

    assert import_engine(there, archive) == first
    assert first.path("engine.plan").stat().st_mtime == 1000


def test_importing_mends_a_damaged_engine_and_ends_a_stopped_build(
    there: Store, identity: MakeIdentity, archive: Path
) -> None:
    os.truncate(import_engine(there, archive).path("engine.plan"), 3)
    with pytest.raises(DamagedEngine):
        there.find(identity())
    with there.building(identity()) as staging:
        staging.write("graph.onnx", b"graph")
        staging.phase_done("export", ("graph.onnx",), seconds=1.0)

    import_engine(there, archive)

    found = there.find(identity())
    assert found is not None
    assert there.verify(found.digest) == found
    assert there.unfinished() == ()


def test_a_damaged_engine_does_not_leave(store: Store, engine: MakeEngine, tmp_path: Path) -> None:
    made = engine(store, PLAN)
    made.path("engine.plan").write_bytes(PLAN[:-1] + b"!")

    with pytest.raises(DamagedEngine, match="other bytes"):
        export_engine(store, made.digest, tmp_path / "out.tar")
    assert not [path for path in tmp_path.iterdir() if "out.tar" in path.name]


def test_an_engine_that_failed_its_certificate_neither_leaves_nor_arrives(
    store: Store, there: Store, engine: MakeEngine, archive: Path, tmp_path: Path
) -> None:
    failed = engine(store, precision="bfloat16", verdict="failed")
    with pytest.raises(UncertifiedEngine, match="not exported"):
        export_engine(store, failed.digest, tmp_path)

    (manifest, data), plan = members_of(archive)
    fields = json.loads(data)
    fields["certificate"]["verdict"] = "failed"
    forged = written(tmp_path / "failed.tar", [named(manifest.name, json.dumps(fields).encode()), plan])
    with pytest.raises(UncertifiedEngine, match="not imported"):
        import_engine(there, forged)
    assert is_untouched(there)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.6])
def test_an_archive_that_was_cut_short_is_refused(there: Store, archive: Path, part: float) -> None:
    os.truncate(archive, int(archive.stat().st_size * part))

    with pytest.raises(BadArchive):
        import_engine(there, archive)
    assert is_untouched(there)


def test_an_archive_that_ends_after_a_whole_member_is_refused(there: Store, archive: Path, tmp_path: Path) -> None:
    short = written(tmp_path / "short.tar", members_of(archive)[:1])

    with pytest.raises(BadArchive, match=r"cut short: engine\.plan missing"):
        import_engine(there, short)
    assert is_untouched(there)


def test_a_flipped_bit_is_refused(there: Store, archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[data.index(PLAN[:600]) + 500] ^= 1
    archive.write_bytes(data)

    with pytest.raises(BadArchive, match=r"engine\.plan has other bytes"):
        import_engine(there, archive)
    assert is_untouched(there)


def test_a_file_larger_than_its_manifest_says_is_refused_before_it_is_written(
    there: Store, archive: Path, tmp_path: Path
) -> None:
    manifest, (plan, data) = members_of(archive)
    forged = written(tmp_path / "larger.tar", [manifest, named(plan.name, data + b"more")])

    with pytest.raises(BadArchive, match=r"engine\.plan has 5,124 bytes, its manifest says 5,120"):
        import_engine(there, forged)
    assert is_untouched(there)


def test_an_archive_of_a_newer_worker_is_refused(there: Store, archive: Path, tmp_path: Path) -> None:
    (manifest, data), plan = members_of(archive)
    newer = json.dumps(json.loads(data) | {"schema": 99}).encode()

    with pytest.raises(NewerManifest, match="newer worker"):
        import_engine(there, written(tmp_path / "newer.tar", [named(manifest.name, newer), plan]))
    assert is_untouched(there)


def test_an_engine_that_a_newer_worker_wrote_is_not_replaced_by_an_import(there: Store, archive: Path) -> None:
    here = import_engine(there, archive)
    path = here.folder / "manifest.json"
    newer = json.dumps(json.loads(path.read_bytes()) | {"schema": 99})
    path.write_text(newer)

    with pytest.raises(NewerManifest, match="update this worker"):
        import_engine(there, archive)
    assert path.read_text() == newer


@pytest.mark.parametrize(
    "extra",
    [
        named("../../escaped", b"x"),
        named("HERE/../../escaped", b"x"),
        named("/tmp/escaped", b"x"),
        named("HERE/engine.plan", b"again"),
        named("HERE/unlisted", b"x"),
        named("HERE/engine.plan", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        named("HERE/engine.plan", b"", type=tarfile.LNKTYPE, linkname="manifest.json"),
        named("folder", b"", type=tarfile.DIRTYPE),
        named("pipe", b"", type=tarfile.FIFOTYPE),
    ],
    ids=["up", "out", "absolute", "twice", "unlisted", "symbolic link", "hard link", "folder", "pipe"],
)
@pytest.mark.parametrize("first", [True, False])
def test_nothing_but_the_files_of_the_manifest_is_written(
    there: Store, archive: Path, tmp_path: Path, extra: tuple[tarfile.TarInfo, bytes], first: bool
) -> None:
    manifest, plan = members_of(archive)
    extra[0].name = extra[0].name.replace("HERE", plan[0].name.partition("/")[0])
    forged = written(tmp_path / "forged.tar", [manifest, extra, plan] if first else [manifest, plan, extra])

    problem = "is no plain file" if extra[0].type != tarfile.REGTYPE else "nothing was imported"
    with pytest.raises(BadArchive, match=problem):
        import_engine(there, forged)
    assert is_untouched(there)
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("kind", ["compressed", "text", "plan first", "large manifest"])
def test_a_file_that_is_no_archive_of_an_engine_is_refused(
    there: Store, archive: Path, tmp_path: Path, kind: str
) -> None:
    other = tmp_path / "other"
    if kind == "compressed":
        written(other, members_of(archive), "w:gz")
    elif kind == "text":
        other.write_text("this is no archive\n" * 100)
    elif kind == "plan first":
        written(other, members_of(archive)[::-1])
    else:
        written(other, [named(f"{'a' * 64}/manifest.json", bytes(9 * 2**20))])

    with pytest.raises(BadArchive, match="no archive of an engine"):
        import_engine(there, other)
    assert is_untouched(there)


def test_a_manifest_of_another_engine_is_refused(there: Store, archive: Path, tmp_path: Path) -> None:
    (manifest, data), plan = members_of(archive)
    other = data.replace(b"89", b"75")
    assert other != data

    with pytest.raises(BadArchive, match="describes another engine"):
        import_engine(there, written(tmp_path / "other.tar", [named(manifest.name, other), plan]))
    assert is_untouched(there)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_no_change_of_an_archive_gives_another_engine(
    there: Store, identity: MakeIdentity, archive: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(archive.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    changed = tmp_path / "changed.tar"
    changed.write_bytes(content)
    try:
        imported = import_engine(there, changed)
    except StoreError:
        assert is_untouched(there)
    else:  # in padding, a time or a log line
        assert imported.digest == digest(identity())
        assert bytes(imported.read("engine.plan")) == PLAN
        there.remove(imported.digest)


@pytest.mark.parametrize("sparse", [{"GNU.sparse.size": "x"}, {"GNU.sparse.map": "1,y"}, {"GNU.sparse.realsize": "-"}])
@pytest.mark.parametrize("place", [0, 1])
def test_a_members_own_notes_that_make_no_sense_are_a_bad_archive(
    there: Store, archive: Path, tmp_path: Path, sparse: dict[str, str], place: int
) -> None:
    members = members_of(archive)
    members[place][0].pax_headers = sparse

    with pytest.raises(BadArchive):
        import_engine(there, written(tmp_path / "sparse.tar", members))
    assert is_untouched(there)


@pytest.mark.parametrize("depth", [20, 200, 2_000, 100_000])
def test_figures_without_end_are_a_bad_archive(there: Store, archive: Path, tmp_path: Path, depth: int) -> None:
    (manifest, data), plan = members_of(archive)
    deep = b'"figures": {"a": ' + b"[" * depth + b"]" * depth + b"}"
    forged = re.sub(rb'"figures": ?\{[^}]*\}', lambda _: deep, data)
    assert deep in forged

    with pytest.raises(BadArchive):
        import_engine(there, written(tmp_path / "deep.tar", [named(manifest.name, forged), plan]))
    assert is_untouched(there)
