"""Builds that meet each other, are killed, or run out of room: with real processes and a real full disk."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trt_engines.store.errors import DamagedEngine, StoreFull, WaitingStopped
from trt_engines.store.identity import Identity, digest
from trt_engines.store.manifest import Certificate
from trt_engines.store.store import Store
from trt_engines.store.stored import Stored

MakeIdentity = Callable[..., Identity]
MakeEngine = Callable[..., Stored]

PASSED = Certificate(verdict="passed")

# Builds in two phases. Tells each on stdout; before it begins and after each phase it waits for a line on stdin.
BUILDER = """
import sys
import threading
from pathlib import Path
from trt_engines.store.identity import Identity
from trt_engines.store.manifest import Certificate
from trt_engines.store.store import Store

def tell(text):
    print(text, flush=True)
    if text != "published":
        sys.stdin.readline()

identity = Identity(architecture="stable_diffusion_1", component="denoiser", graph="a" * 64, weights="b" * 64,
    precision="float16", profiles=(), flags={}, library="tensorrt-rtx", library_version="1.7",
    compute_capabilities=(86,))
with Store(Path(sys.argv[1])).building(identity, on_wait=lambda pid: print("waiting for", pid, flush=True)) as staging:
    if staging.published is None:
        if staging.done("export") is None:
            tell("exporting")
            staging.write("graph.onnx", b"graph" * 1000)
            staging.phase_done("export", ("graph.onnx",), seconds=1.0)
        if staging.done("build") is None:
            staging.path("engine.plan").write_bytes(b"half a pl")
            tell("building")
            staging.write("engine.plan", b"plan" * 1000)
            staging.phase_done("build", ("engine.plan",), seconds=2.0)
        staging.publish(models=("m",), certificate=Certificate(verdict="passed"), files=("engine.plan",))
        tell("published")
    else:
        print("found", flush=True)
"""


@pytest.fixture
def bare(identity: MakeIdentity) -> Identity:
    """What `BUILDER` builds."""
    return identity(profiles=(), flags={}, library_version="1.7", compute_capabilities=(86,))


@contextmanager
def builder(store: Store) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_build_the_same_engine_once(store: Store, bare: Identity) -> None:
    with builder(store) as first:
        assert said(first) == "exporting"
        with builder(store) as second:
            assert said(second) == f"waiting for {first.pid}"
            assert [one.held for one in store.unfinished()] == [True]
            assert store.find(bare) is None
            go_on(first)
            assert said(first) == "building"
            go_on(first)
            assert said(first) == "published"
            assert said(second) == "found"
            assert (first.wait(), second.wait()) == (0, 0)
    assert store.find(bare) is not None


def test_a_killed_build_goes_on_after_its_last_finished_phase(store: Store, bare: Identity) -> None:
    with builder(store) as first:
        assert said(first) == "exporting"
        go_on(first)
        assert said(first) == "building"
        first.kill()
    assert store.find(bare) is None
    (stopped,) = store.unfinished()
    assert (stopped.digest, stopped.held, stopped.phases) == (digest(bare), False, ("export",))

    with builder(store) as second:
        assert said(second) == "building"
        go_on(second)
        assert said(second) == "published"
        assert second.wait() == 0
    found = store.find(bare)
    assert found is not None
    assert bytes(found.read("engine.plan")) == b"plan" * 1000
    assert [phase.name for phase in found.manifest.phases] == ["export", "build"]
    assert store.unfinished() == ()


def test_who_waits_for_a_process_that_is_killed_takes_its_place(store: Store, bare: Identity) -> None:
    with builder(store) as first:
        assert said(first) == "exporting"
        go_on(first)
        assert said(first) == "building"
        with builder(store) as second:
            assert said(second) == f"waiting for {first.pid}"
            first.kill()
            assert said(second) == "building"
            go_on(second)
            assert said(second) == "published"
            assert second.wait() == 0
    assert store.find(bare) is not None


def test_different_engines_are_built_at_the_same_time(store: Store, engine: MakeEngine) -> None:
    with builder(store) as other:
        assert said(other) == "exporting"

        assert engine(store).manifest.passed


def test_a_phase_whose_file_changed_is_run_again(store: Store, identity: MakeIdentity) -> None:
    with store.building(identity()) as staging:
        for name in ("export", "bind", "parse"):
            staging.write(name, b"right")
            staging.phase_done(name, (name,), seconds=1.0, notes={"tensors": 7})
        folder = staging.folder
    (folder / "bind").write_bytes(b"wrong")
    (folder / "parse").write_bytes(b"cut")

    with store.building(identity()) as staging:
        export = staging.done("export")
        assert export is not None
        assert export.notes == {"tensors": 7}
        assert staging.done("bind") is staging.done("parse") is None


def test_a_file_that_changed_after_its_phase_is_not_published(store: Store, identity: MakeIdentity) -> None:
    with store.building(identity()) as staging:
        staging.write("engine.plan", b"right")
        staging.phase_done("build", ("engine.plan",), seconds=1.0)
        folder = staging.folder
    (folder / "engine.plan").write_bytes(b"wrong")

    with store.building(identity()) as staging, pytest.raises(DamagedEngine, match="changed after phase build"):
        staging.publish(models=("m",), certificate=PASSED, files=("engine.plan",))
    assert store.find(identity()) is None


def test_a_file_of_no_phase_is_not_published(store: Store, identity: MakeIdentity) -> None:
    with store.building(identity()) as staging:
        staging.write("engine.plan", b"plan")
        with pytest.raises(ValueError, match="no finished phase"):
            staging.publish(models=("m",), certificate=PASSED, files=("engine.plan",))


@pytest.mark.parametrize("name", ["../engine.plan", "a/b", ".hidden", "manifest.json", "used", "phases", ""])
def test_no_file_of_a_build_lies_outside_its_folder(store: Store, identity: MakeIdentity, name: str) -> None:
    with store.building(identity()) as staging, pytest.raises(ValueError, match="cannot name a file"):
        staging.path(name)


@pytest.mark.parametrize("flipped", [False, True])
def test_a_publication_that_was_cut_off_is_finished_only_if_it_is_whole(
    store: Store, identity: MakeIdentity, engine: MakeEngine, flipped: bool
) -> None:
    made = engine(store)
    made.folder.rename(store.staging / made.digest)  # as if killed in front of the last step
    if flipped:
        (store.staging / made.digest / "engine.plan").write_bytes(b"flan" * 1000)

    with store.building(identity()) as staging:
        assert (staging.published is None) is flipped

    assert store.find(identity()) == (None if flipped else made)


def test_an_error_in_a_build_gives_back_the_room_of_its_unfinished_phase(store: Store, identity: MakeIdentity) -> None:
    def fails() -> None:
        with store.building(identity()) as staging:
            staging.write("graph.onnx", b"graph")
            staging.phase_done("export", ("graph.onnx",), seconds=1.0)
            staging.write("engine.plan", b"half")
            raise RuntimeError("the parser refuses it")

    with pytest.raises(RuntimeError, match="parser"):
        fails()

    left = store.staging / digest(identity())
    assert sorted(path.name for path in left.iterdir()) == ["graph.onnx", "phases"]


def test_what_cannot_fit_is_refused_before_it_begins(store: Store, identity: MakeIdentity) -> None:
    with pytest.raises(StoreFull, match=r"1,000,000,000,000\.0 MB.*MB free"), store.building(identity(), needed=10**18):
        pass


@pytest.mark.parametrize("through_the_store", [True, False])
def test_a_full_disk_says_so_and_leaves_the_store_whole(
    store: Store, identity: MakeIdentity, engine: MakeEngine, through_the_store: bool
) -> None:
    """The limit on a file's size stands for the disk: the write fails in the middle, as on a full one."""
    other = engine(store, precision="bfloat16")

    def build() -> None:
        with store.building(identity()) as staging:
            staging.write("graph.onnx", b"graph")
            staging.phase_done("export", ("graph.onnx",), seconds=1.0)
            if through_the_store:
                staging.write("engine.plan", bytes(3_000_000))
            else:
                staging.path("engine.plan").write_bytes(bytes(3_000_000))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(StoreFull, match=r"no room for .*MB free.*prune") as caught:
            build()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert not through_the_store or "engine.plan (3.0 MB)" in str(caught.value)
    assert store.find(identity()) is None
    assert store.verify(other.digest) == other
    assert [one.phases for one in store.unfinished()] == [("export",)]
    assert sorted(path.name for path in (store.staging / digest(identity())).iterdir()) == ["graph.onnx", "phases"]
    assert engine(store).manifest.passed


FULL_DISK = """
mount -t tmpfs -o size=2m none "$1" || exit 77
exec "$2" -c "$3" "$1"
"""

ON_A_FULL_DISK = """
import sys
import threading
from pathlib import Path
from trt_engines.store.errors import StoreFull
from trt_engines.store.identity import Identity
from trt_engines.store.manifest import Certificate
from trt_engines.store.prune import Policy, prune
from trt_engines.store.store import Store

store = Store(Path(sys.argv[1]))

def build(size, precision):
    identity = Identity(architecture="a", component="c", graph="a" * 64, weights="b" * 64, precision=precision,
        profiles=(), flags={}, library="l", library_version="1", compute_capabilities=(86,))
    with store.building(identity) as staging:
        staging.write("engine.plan", bytes(size))
        staging.phase_done("build", ("engine.plan",), seconds=1.0)
        return staging.publish(models=("m",), certificate=Certificate(verdict="passed"), files=("engine.plan",))

first = build(1_000_000, "float16")
try:
    build(1_500_000, "bfloat16")
except StoreFull as error:
    print(error)
assert store.verify(first.digest) == first
filler = Path(sys.argv[1]) / "filler"
try:
    filler.write_bytes(bytes(2_000_000))
except OSError:
    pass
assert [one.digest for one in prune(store, Policy(budget=0, unfinished_after=None), 2e9)] == [first.digest]
filler.unlink()
build(1_500_000, "bfloat16")
"""


def test_a_disk_that_is_really_full_says_so_and_is_freed_by_pruning(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare, and so no disk of 2 MB")
    command = [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", FULL_DISK, "sh"]
    answer = subprocess.run(
        [*command, str(tmp_path), sys.executable, ON_A_FULL_DISK],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
        timeout=60,
    )
    if answer.returncode == 77 or "unshare failed" in answer.stderr:
        pytest.skip(f"no disk of 2 MB can be made here: {answer.stderr.strip()}")

    assert answer.returncode == 0, answer.stderr
    assert "no room for engine.plan (1.5 MB)" in answer.stdout
    assert "No space left on device" in answer.stdout


def test_waiting_for_another_process_ends_when_the_caller_is_told_to_stop(store: Store, bare: Identity) -> None:
    stop = threading.Event()
    with builder(store) as other:
        assert said(other) == "exporting"

        with (
            pytest.raises(WaitingStopped, match="another process"),
            store.building(bare, on_wait=lambda _pid: stop.set(), stop=stop),
        ):
            pass

        go_on(other)
        assert said(other) == "building"


def test_scratch_is_gone_after_its_use_and_what_a_killed_build_left_before_the_next_one(store: Store) -> None:
    (store.root / "scratch" / "left by a killed build").mkdir(parents=True)

    with store.scratch() as first:
        (first / "weights").write_bytes(b"w")
        with store.scratch() as second:  # of a build beside it, which leaves the first one alone
            assert sorted((store.root / "scratch").iterdir()) == sorted([first, second])
            assert (first / "weights").exists()

    assert not list((store.root / "scratch").iterdir())
