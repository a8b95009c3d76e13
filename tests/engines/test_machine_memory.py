"""The memory that a process may use, with control groups as containers have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from trt_engines.machine_memory import machine_memory

GB = 10**9


def groups(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


def test_without_a_limit_the_memory_is_the_machines(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total

    assert machine_memory(tmp_path).total == total
    assert machine_memory(groups(tmp_path, {"memory.max": "max", "memory.current": "5"})).total == total


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "1000000000", "memory.current": "400000000", "memory.stat": "anon 7\ninactive_file 100000000"},
        {
            "memory/memory.limit_in_bytes": "1000000000",
            "memory/memory.usage_in_bytes": "400000000",
            "memory/memory.stat": "inactive_file 5\ntotal_inactive_file 100000000",
        },
    ],
    ids=["version 2", "version 1"],
)
def test_a_container_has_what_its_group_leaves_and_files_that_are_only_kept_count_as_free(
    tmp_path: Path, files: dict[str, str]
) -> None:
    memory = machine_memory(groups(tmp_path, files))

    assert (memory.total, memory.free) == (GB, 700_000_000)


def test_a_limit_beyond_the_machine_is_none(tmp_path: Path) -> None:
    files = {"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": "5"}

    assert machine_memory(groups(tmp_path, files)).total == psutil.virtual_memory().total


def test_a_group_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    memory = machine_memory(groups(tmp_path, {"memory.max": "1000", "memory.current": "4000"}))

    assert memory.free == 0
