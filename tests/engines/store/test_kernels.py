"""Kernels that were compiled on a card, beside the engine they are of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loguru import logger

from trt_engines.store.identity import digest
from trt_engines.store.kernels import KernelFile
from trt_engines.store.locks import hold
from trt_engines.store.store import Store
from trt_engines.store.stored import Stored

MakeEngine = Callable[..., Stored]


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), level="INFO")
    yield lines
    logger.remove(sink)


def kept(store: Store, stored: Stored, *, version: str = "1.7.1", card: str = "RTX 4090 SM89") -> KernelFile:
    return store.kernels(stored.digest, version, card)


def file_of(stored: Stored) -> Path:
    (file,) = (stored.folder / "kernels").iterdir()
    return file


def test_what_was_written_is_read_by_another_process_on_such_a_card_alone(store: Store, engine: MakeEngine) -> None:
    stored = engine(store)
    kept(store, stored).write(b"kernels")

    assert kept(store, stored).read() == b"kernels"
    assert kept(store, stored, card="RTX 3060 SM86").read() == b""
    assert kept(store, stored, version="1.8.0").read() == b""


@pytest.mark.parametrize("damage", [b"", b"kernels", b"trt-worker kernels 1\n" + bytes(32) + b"kernels"])
def test_a_damaged_file_is_told_of_ignored_and_written_anew(
    store: Store, engine: MakeEngine, said: list[str], damage: bytes
) -> None:
    stored = engine(store)
    kept(store, stored).write(b"kernels")
    file_of(stored).write_bytes(damage)

    assert kept(store, stored).read() == b""
    assert "damaged, or of another card" in said[-1]
    kept(store, stored).write(b"again")
    assert kept(store, stored).read() == b"again"


def test_a_file_that_was_copied_from_another_card_is_ignored(store: Store, engine: MakeEngine, said: list[str]) -> None:
    stored = engine(store)
    kept(store, stored, card="RTX 3060 SM86").write(b"foreign")
    foreign = file_of(stored)
    kept(store, stored).write(b"own")
    (own,) = (file for file in foreign.parent.iterdir() if file != foreign)
    own.write_bytes(foreign.read_bytes())

    assert kept(store, stored).read() == b""
    assert said


def test_kernels_are_no_part_of_the_engine_and_leave_with_it(store: Store, engine: MakeEngine) -> None:
    stored = engine(store)
    kept(store, stored).write(b"kernels")

    assert store.verify(stored.digest) == stored
    assert store.get(stored.digest) == stored
    assert store.remove(stored.digest)
    assert kept(store, stored).read() == b""


def test_kernels_of_an_engine_that_is_gone_or_just_replaced_are_not_kept(
    store: Store, engine: MakeEngine, said: list[str]
) -> None:
    stored = engine(store)
    with hold(store.lock(stored.digest)):
        kept(store, stored).write(b"kernels")
    assert kept(store, stored).read() == b""
    store.remove(stored.digest)

    kept(store, stored).write(b"kernels")

    assert not stored.folder.exists()
    assert ["not kept now" in line for line in said] == [True, True]
    assert stored.digest == digest(stored.manifest.identity)


def test_a_store_that_cannot_be_written_costs_time_and_nothing_else(
    store: Store, engine: MakeEngine, said: list[str]
) -> None:
    stored = engine(store)
    (stored.folder / "kernels").write_bytes(b"a file where the folder would be")

    kept(store, stored).write(b"kernels")

    assert "not kept, and the next start compiles them again" in said[-1]
    assert kept(store, stored).read() == b""
