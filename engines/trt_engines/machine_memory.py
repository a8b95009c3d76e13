"""The machine's own memory as far as this process may use it: a container often has less than the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineMemory:
    """Bytes."""

    total: int
    free: int  # without swapping; what is only kept of files counts as free


def machine_memory(cgroups: Path = CGROUPS) -> MachineMemory:
    """The machine's memory, or what a control group leaves of it.

    Args: cgroups: where control groups are mounted, of version 2 or 1; a container sees its own there.
    Source: Linux, admin-guide/cgroup-v2.rst (memory.max, memory.current, memory.stat) and cgroup-v1/memory.rst.
    """
    whole = psutil.virtual_memory()
    limit, used = _limit(cgroups)
    if limit is None or limit >= whole.total:
        return MachineMemory(total=whole.total, free=whole.available)
    return MachineMemory(total=limit, free=min(max(limit - used, 0), whole.available))


def _limit(cgroups: Path) -> tuple[int | None, int]:
    """Bytes that the group may use, None without a limit, and those in use that cannot be given up."""
    for folder, limit, current, cache in (
        (cgroups, "memory.max", "memory.current", "inactive_file"),
        (cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        found = _number(folder / limit)
        if found is not None:
            return found, (_number(folder / current) or 0) - _statistic(folder / "memory.stat", cache)
    return None, 0


def _number(file: Path) -> int | None:
    """What a file holds; None: there is none, or the word "max"."""
    try:
        text = file.read_text().strip()
    except OSError:  # no such group, or not for us to read
        return None
    return int(text) if text.isdigit() else None


def _statistic(file: Path, name: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
