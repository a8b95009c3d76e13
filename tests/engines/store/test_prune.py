"""Which engines go."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from trt_engines.store.identity import Identity, digest
from trt_engines.store.manifest import Certificate, FileEntry, Manifest
from trt_engines.store.prune import Policy, choose, prune
from trt_engines.store.store import Entry, Store, Unfinished
from trt_engines.store.stored import Stored

MakeIdentity = Callable[..., Identity]
MakeEngine = Callable[..., Stored]
MakeEntry = Callable[..., Entry]
DAY = 86400.0
NOW = 100 * DAY


@pytest.fixture
def entry(identity: MakeIdentity) -> MakeEntry:
    def make(
        *,
        state: str = "ready",
        size: int = 10,
        used: float = NOW,
        created: float = 0.0,
        models: tuple[str, ...] = ("m",),
        **changes: Any,
    ) -> Entry:
        what = identity(**changes)
        manifest = Manifest(
            identity=what,
            models=models,
            certificate=Certificate(verdict="failed" if state == "failed" else "passed"),
            files={"engine.plan": FileEntry(size=size, sha256="a" * 64)},
            phases=(),
            created=datetime.fromtimestamp(created, UTC),
        )
        known = manifest if state in {"ready", "failed"} else None
        return Entry(digest=digest(what), size=size, last_used=used, manifest=known, state=state)

    return make


def stopped(days: float, *, held: bool = False) -> Unfinished:
    return Unfinished(digest="c" * 64, size=5, changed=NOW - days * DAY, held=held, phases=())


def gone(entries: list[Entry], policy: Policy | None = None) -> list[str]:
    return [one.digest for one in choose(entries, (), policy or Policy(), NOW)]


def test_engines_in_use_stay(entry: MakeEntry) -> None:
    assert gone([entry(), entry(precision="bfloat16"), entry(component="vae_decoder")]) == []


def test_failed_and_damaged_engines_go_and_a_newer_workers_stay(entry: MakeEntry) -> None:
    failed, damaged = entry(state="failed"), entry(state="damaged", precision="bfloat16")
    newer = entry(state="newer", precision="float32")

    assert gone([failed, damaged, newer]) == [failed.digest, damaged.digest]
    assert gone([failed, damaged, newer], Policy(failed=False)) == []


def test_engines_of_another_library_version_go_where_that_library_is_installed(entry: MakeEntry) -> None:
    stale, other = entry(library_version="1.6"), entry(library="tensorrt", library_version="10.13")
    policy = Policy(installed={"tensorrt-rtx": "1.7.1.116"})

    (removal,) = choose([stale, other, entry()], (), policy, NOW)

    assert removal.digest == stale.digest
    assert removal.reason == "built with tensorrt-rtx 1.6, 1.7.1.116 is installed"


def test_an_engine_goes_when_a_newer_one_does_its_work(entry: MakeEntry) -> None:
    old, new = entry(created=1.0), entry(created=2.0, weights="d" * 64)

    assert gone([old, new]) == gone([new, old]) == [old.digest]
    assert gone([old, new], Policy(superseded=False)) == []


@pytest.mark.parametrize(
    "changes",
    [{"models": ("other",)}, {"precision": "float8"}, {"compute_capabilities": (75,)}, {"profiles": ()}, {"flags": {}}],
)
def test_an_engine_for_something_else_supersedes_nothing(entry: MakeEntry, changes: dict[str, Any]) -> None:
    assert gone([entry(created=1.0), entry(created=2.0, weights="d" * 64, **changes)]) == []


def test_an_engine_that_cannot_be_served_supersedes_nothing(entry: MakeEntry) -> None:
    old, failed = entry(created=1.0), entry(created=2.0, weights="d" * 64, state="failed")

    assert gone([old, failed]) == [failed.digest]


def test_over_the_budget_the_least_recently_used_go_first(entry: MakeEntry) -> None:
    recent = entry(used=NOW)
    older = entry(used=NOW - DAY, precision="bfloat16")
    oldest = entry(used=NOW - 2 * DAY, precision="float32")

    assert gone([recent, oldest, older], Policy(budget=30)) == []
    assert gone([recent, oldest, older], Policy(budget=29)) == [oldest.digest]
    assert gone([recent, oldest, older], Policy(budget=19)) == [oldest.digest, older.digest]


def test_a_newer_workers_engine_counts_against_the_budget_and_stays(entry: MakeEntry) -> None:
    newer, own = entry(state="newer", used=0.0), entry(precision="bfloat16")

    assert gone([newer, own], Policy(budget=10)) == [own.digest]


def test_what_goes_anyway_does_not_count_against_the_budget(entry: MakeEntry) -> None:
    failed, own = entry(state="failed"), entry(precision="bfloat16")

    assert gone([failed, own], Policy(budget=10)) == [failed.digest]


def test_builds_that_were_stopped_long_ago_go_and_those_under_way_stay() -> None:
    old, young, running = stopped(8), stopped(6), stopped(8, held=True)

    removals = choose((), (old, young, running), Policy(), NOW)

    assert [(one.unfinished, one.size, one.reason) for one in removals] == [(True, 5, "stopped 8 days ago")]
    assert choose((), (old,), Policy(unfinished_after=None), NOW) == ()


def test_pruning_removes_what_was_chosen_and_nothing_else(store: Store, engine: MakeEngine) -> None:
    failed, good = engine(store, verdict="failed"), engine(store, precision="bfloat16")

    shown = prune(store, Policy(), NOW, dry_run=True)
    assert [one.digest for one in shown] == [failed.digest]
    assert failed.folder.exists()

    assert prune(store, Policy(), NOW) == shown
    assert [one.digest for one in store.entries()] == [good.digest]
    assert list(store.trash.iterdir()) == []


def test_what_a_process_is_at_is_not_pruned(store: Store, engine: MakeEngine) -> None:
    failed = engine(store, verdict="failed")

    with store.holding(failed.digest):
        assert prune(store, Policy(), NOW) == ()
    assert failed.folder.exists()


def test_a_loaded_engine_outlives_its_pruning(store: Store, engine: MakeEngine) -> None:
    data = engine(store, b"plan").read("engine.plan")

    assert len(prune(store, Policy(budget=0), NOW)) == 1

    assert bytes(data) == b"plan"


def test_pruning_empties_what_a_killed_process_left_on_its_way_out(store: Store, engine: MakeEngine) -> None:
    engine(store)
    (store.trash / "left").mkdir(parents=True)
    (store.trash / "left" / "engine.plan").write_bytes(b"x")

    prune(store, Policy(), NOW)

    assert list(store.trash.iterdir()) == []
