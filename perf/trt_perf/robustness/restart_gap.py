"""How long a worker earns nothing after an orderly restart of the coordinator, its presence entries gone with it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter

import anyio

from trt_perf.robustness.file_worker import open_file_worker
from trt_worker.local_grid.server import LocalGrid

CONNECTIONS = 8
DOWN_SECONDS = 5.0
LONGEST = 120.0  # the wait for a name that somebody else has is 90


def measure() -> dict[str, float]:
    """`restart_gap_s`: from the close of all connections with 1012 to the last registration, at most LONGEST."""
    return anyio.run(_measure, backend_options={"use_uvloop": True})


async def _measure() -> dict[str, float]:
    async with LocalGrid() as grid:
        with tempfile.TemporaryDirectory() as folder:
            async with open_file_worker(grid, Path(folder), {"grid_connections": CONNECTIONS}):
                with anyio.fail_after(60):
                    await grid.connected(CONNECTIONS)
                before = len(grid.sockets.registrations)
                began = perf_counter()
                gap = LONGEST
                with anyio.move_on_after(LONGEST):
                    await grid.restart(DOWN_SECONDS)
                    await grid.sockets.registered(before + CONNECTIONS)
                    gap = perf_counter() - began
    return {"restart_gap_s": gap}
