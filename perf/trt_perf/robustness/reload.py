"""What edits of a running worker's configuration cost its customers.

The local grid behaves as the real coordinator does where it loses jobs: it holds up to two jobs behind the one that
runs, loses the second of them when the connection closes, and does not see an idle connection close until it sends
something.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from random import Random

import anyio

from trt_engines.model import BUILT_IN
from trt_perf.robustness.file_worker import open_file_worker
from trt_worker.local_grid.requests import GridHandle, ImageRequest
from trt_worker.local_grid.server import LocalGrid
from trt_worker.local_grid.settings import GridSettings

CONNECTIONS = 8
BURST, TRICKLE = 16, 4  # jobs, after every other edit: 200 in all
MODEL = "shapes-tiny"
OTHER = "another"
PING_SECONDS = 0.5  # 10 on the real one: twenty edits would take an hour
CUSTOMER_SECONDS = 20.0
EDITS: tuple[Mapping[str, object], ...] = (
    {"models_to_load": f"[{MODEL}, {OTHER}]"},
    {"max_power": 16},
    {"models_to_load": f"[{MODEL}]"},
    {"queue_size": 3},
    {"nsfw": "false"},
    {"models_to_load": f"[{OTHER}, {MODEL}]"},
    {"allow_img2img": "false"},
    {"models_to_skip": f"[{OTHER}]"},
    {"stats_output_frequency": 60},
    {"drain_seconds": 60},
    {"priority_usernames": '["somebody#1"]'},
    {"limit_max_steps": "true"},
    {"minutes_allowed_without_jobs": 5},
    {"models_to_skip": "[]"},
    {"max_power": 32},
    {"models_to_load": f"[{MODEL}]"},
    {"allow_img2img": "true"},
    {"queue_size": 1},
    {"models_to_load": f"[{MODEL}, {OTHER}]"},
    {"nsfw": "true"},
)


def measure() -> dict[str, float]:
    """`lost_on_reload`: jobs of 200 whose customers got no picture; `reload_renewals`: registrations by the edits."""
    return anyio.run(_measure, backend_options={"use_uvloop": True})


async def _measure() -> dict[str, float]:
    settings = GridSettings(
        loses_held=True, ping_seconds=PING_SECONDS, dispatch_gap_seconds=0.02, client_seconds=CUSTOMER_SECONDS
    )
    async with LocalGrid(settings) as grid:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _add_model(folder / "models")
            async with open_file_worker(grid, folder, {"grid_connections": CONNECTIONS}) as worker:
                with anyio.fail_after(60):
                    await grid.connected(CONNECTIONS)
                handles: list[GridHandle] = []
                random = Random(0)
                for number, edit in enumerate(EDITS):
                    worker.edit(edit)
                    ask = _trickle if number % 2 else _burst
                    handles += [handle async for handle in ask(grid, random)]
                results = [await handle.result() for handle in handles]
                renewals = len(grid.sockets.registrations) - CONNECTIONS
    lost = sum(result.status != 200 for result in results)
    return {"lost_on_reload": float(lost), "reload_renewals": float(renewals)}


async def _burst(grid: LocalGrid, random: Random) -> AsyncIterator[GridHandle]:
    """More jobs at once than there are connections, at some moment around the next pings."""
    await anyio.sleep(random.uniform(0, 2 * PING_SECONDS))
    for _ in range(BURST):
        yield await _submit(grid)


async def _trickle(grid: LocalGrid, random: Random) -> AsyncIterator[GridHandle]:
    """Jobs one by one, with idle moments between them that are shorter and longer than between two pings."""
    for _ in range(TRICKLE):
        yield await _submit(grid)
        await anyio.sleep(random.uniform(0, 2 * PING_SECONDS))


async def _submit(grid: LocalGrid) -> GridHandle:
    return await grid.submit_grid(ImageRequest(model=MODEL, width=256, height=256, steps=4))


def _add_model(models: Path) -> None:
    """A second model, so that there is something else to offer: the first under another name."""
    folder = models / OTHER
    shutil.copytree(BUILT_IN / MODEL, folder)
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, "name": OTHER}))
