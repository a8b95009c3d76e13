"""Every point of a job's way in the supervisor thrown at, with other jobs under way. For `unexpected`, which compiles
them first."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import anyio

from trt_engines.errors import EngineRefused
from trt_perf.robustness import points
from trt_perf.robustness.customers import EXPECTED, JOBS, ended, image_to_image, unreadable
from trt_worker import frames, networks
from trt_worker.app import Worker, open_worker
from trt_worker.config.schema import Config
from trt_worker.errors import BadJob, LateJob, TransportError
from trt_worker.local_grid.faults import Fault, Faults
from trt_worker.local_grid.recipe import shipped_recipes
from trt_worker.local_grid.server import LocalGrid
from trt_worker.local_grid.settings import GridSettings, HordeSettings
from trt_worker.networks import Network
from trt_worker.supervisor.device_link import JobFailed

CONNECTIONS = 6
ROUND_SECONDS = 30.0
GRACE_SECONDS = 2.0
ATTEMPTS = 3
"""Rounds for a point: whether some are passed is a matter of which job is faster."""
KEY = "0x" + "11" * 32
"""Of nobody: it signs results on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How a point is passed that ordinary jobs do not pass.

    Args:
        first: where something else has to be thrown first, and what.
        jobs: that are under way, by their names in `JOBS`.
        beside: further ones, of which no picture is expected.
        faults: of the networks.
        kill: whether the device process is killed once the jobs are under way.
    """

    first: tuple[tuple[str, tuple[Callable[[], Exception], ...]], ...] = ()
    jobs: tuple[str, ...] = ("grid", "source", "inline", "inline", "grid")
    beside: tuple[str, ...] = ()
    faults: Faults = dataclasses.field(default_factory=Faults)
    kill: bool = False


TURNED_AWAY = ("surrogate", "unreadable", "withheld")
GRID, HORDE = ("grid", "source", "grid"), ("inline", "inline", "inline")
MADE = r"Service\._serve:\d+ await self\.maker\.make"


def _made(error: Callable[[], Exception], times: int = 1) -> tuple[tuple[str, tuple[Callable[[], Exception], ...]]]:
    return ((MADE, (error,) * times),)


def _failed(kind: str) -> tuple[tuple[str, tuple[Callable[[], Exception], ...]]]:
    """What a device says that could not make a job, told as the job is sent to it."""

    def error() -> Exception:
        return JobFailed(frames.Failed(id="", kind=kind, backend="rowwise", engine="thrown", message="thrown"))

    return ((r"DeviceLink\.make:\d+ await self\._send\(run_frame", (error,)),)


def _refused() -> Exception:
    return EngineRefused("thrown so that the job goes back")


TRIALS: Sequence[tuple[str, Trial]] = (
    (r"Service\._serve:.*fail\(error\.public\)", Trial(first=_made(lambda: BadJob("thrown")))),
    (r"Service\._serve:.*fail\(COULD_NOT\)", Trial(first=_made(lambda: LateJob("thrown")))),
    (r"Service\._serve:.*give_back", Trial(first=_made(_refused))),
    (r"delivery:handed_back", Trial(first=_made(points.a_surprise))),
    (r"GridDelivery\.fail", Trial(first=_made(lambda: BadJob("thrown")), jobs=GRID)),
    (r"HordeDelivery\.fail", Trial(first=_made(lambda: BadJob("thrown")), jobs=HORDE)),
    (r"HordeDelivery\.give_back", Trial(first=_made(_refused), jobs=HORDE)),
    (r"(GridDelivery|Session)\.give_back", Trial(first=_made(_refused), jobs=GRID)),
    (r"_give_back.*error_frame\(job_id", Trial(first=_made(_refused, 2), jobs=("grid",))),
    (r"Session\._take_job:.*not offered any more", Trial(jobs=GRID, beside=("other model",))),
    (
        r"GridDelivery\.deliver:.*self\.fail",
        Trial(first=((r"uploader\.put", (lambda: TransportError("thrown"),)),), jobs=("two", "two")),
    ),
    (
        r"submit:submit:.*NOTHING_UPLOADED",
        Trial(first=((r"uploader\.put", (lambda: TransportError("thrown"),)),), jobs=("grid", "grid")),
    ),
    (r"Uploader\.put:.*sleep|_storage_code", Trial(faults=Faults(put_error=Fault()), jobs=GRID)),
    (r"Session\._take:.*PONG", Trial(beside=("pause",))),
    (r"Session\._take_job:.*error_frame", Trial(beside=("sampler",))),
    (r"Session\._offer:.*fail\(error\.public\)", Trial(beside=("address",))),
    (r"Session\._offer:.*_give_back\(job\.id, reason\)", Trial(beside=("endless",))),
    (
        r"Session\._queue:.*no place in the queue",
        Trial(first=((r"Session\._queue:\d+ await shop\.offers", (TimeoutError,)),), jobs=GRID),
    ),
    (r"Session\._take:.*_turn_away", Trial(beside=("surrogate",))),
    (r"Session\._take_job:.*_turn_away\(frame\.id, '', ", Trial(beside=("long id",))),
    (r"Session\._take_job:.*_turn_away\(frame\.id, model\.name|Session\._turn_away", Trial(beside=TURNED_AWAY)),
    (r"measure_source_image|source_image:.*picture_size", Trial(jobs=("grid", "unscaled", "grid"))),
    (r"Session\._close_when_told|Session\.run:.*create_task_group", Trial(first=_made(_refused), jobs=GRID)),
    (
        r"HordeTransport\._passed_on:.*fail",
        Trial(first=((r"_passed_on:\d+ await self\._understood", (lambda: BadJob("thrown"),)),), jobs=HORDE),
    ),
    (
        r"HordeTransport\._offer:\d+ await delivery\.fail",
        Trial(first=((r"HordeTransport\._offer:\d+ await offers", (TimeoutError,)),), jobs=HORDE),
    ),
    (
        r"HordeDelivery\._hand_back",
        Trial(first=((r"hand_in:\d+ await self\._hand_in", (points.a_surprise,)),), jobs=HORDE),
    ),
    (r"HordeDelivery\._hand_in:.*sleep", Trial(faults=Faults(submit_error=Fault()), jobs=HORDE)),
    (r"source:fetch_source|_understood:.*fetch_source", Trial(jobs=("start", "inline", "start"))),
    (
        r"DeviceLink\.make:.*Withdraw",
        Trial(faults=Faults(drop_mid_job=Fault(seconds=0.1)), beside=("slow",), jobs=HORDE),
    ),
    (r"hand_over", Trial(first=_failed("not_at_hand"))),
    (r"_judge", Trial(first=_failed("fault"))),
    (r"DeviceLink\._receive:.*_death", Trial(kill=True, beside=("slow",))),
    (r"GridDelivery\.progress|_forward_progress", Trial(beside=("slow",))),
)
"""By what a point is called: the first that fits."""


def supervisor_half(notes: list[str]) -> int:
    """Throw at each of its points. Returns: others that were not answered with the picture that they give alone."""
    return anyio.run(_supervisor_half, notes, backend_options={"use_uvloop": True})


async def _supervisor_half(notes: list[str]) -> int:
    lost = 0
    settings = GridSettings(
        ping_seconds=0.5, max_requeues=50, horde=HordeSettings(drops_before_maintenance=10**9, upload_seconds=1_800)
    )
    with TemporaryDirectory() as folder:
        key = _written_key(Path(folder, "rig.json"))
        _wait_little()
        recipes = shipped_recipes()
        listed = unreadable(image_to_image(recipes))
        async with (
            LocalGrid(settings, recipes=[*recipes, listed]) as grid,
            open_worker(_config(grid, key), log_directory=Path(folder)) as worker,
        ):
            await grid.connected(CONNECTIONS)
            alone = {name: (await ended(ask, grid))[0] for name, ask in JOBS.items() if name in EXPECTED}
            if any(picture is None for picture in alone.values()):
                raise RuntimeError(f"an ordinary job fails alone: {alone}")
            for link in worker.links:
                link._restart_waits = (0.0,)  # many are lost in a row here
            for number in list(points.numbers(device=False)):
                for _ in range(ATTEMPTS):
                    if number not in points.fired:
                        lost += await _try(number, grid, worker, alone, notes)
            worker.stop.set()
    return lost


def _written_key(file: Path) -> Path:
    file.write_text(json.dumps({"private_key": KEY}))
    file.chmod(0o600)
    return file


async def _try(
    number: int, grid: LocalGrid, worker: Worker, alone: dict[str, list[bytes] | None], notes: list[str]
) -> int:
    """One round. Returns: jobs lost but for the one that was thrown at."""
    text = str(points.points[number])
    trial = next((trial for known, trial in TRIALS if re.search(known, text)), Trial())
    grid.faults = trial.faults
    await grid.connected(CONNECTIONS)
    points.armed.clear()
    for where, errors in trial.first:
        points.arm(where, [error() for error in errors])
    points.armed.setdefault(number, []).append(points.a_surprise())
    wrong = list(trial.jobs)

    async def one(name: str) -> None:
        if (await ended(JOBS[name], grid))[0] == alone[name]:
            wrong.remove(name)
        if len(wrong) <= 1:  # the last one may be that which was thrown at, and lost with its connection
            others.cancel_scope.deadline = min(others.cancel_scope.deadline, anyio.current_time() + GRACE_SECONDS)

    async with anyio.create_task_group() as others:
        others.cancel_scope.deadline = anyio.current_time() + ROUND_SECONDS
        for name in trial.beside:
            await JOBS[name](grid)
        for name in trial.jobs:
            others.start_soon(one, name)
        if trial.kill:
            await anyio.sleep(0.3)
            if (pid := worker.links[0].pid) is not None:
                os.kill(pid, signal.SIGKILL)
    if number not in points.fired:  # it comes beside the jobs, or after them
        with anyio.move_on_after(3.0):
            await points.next_fired().wait()
    points.armed.clear()
    grid.faults = Faults()
    lost = max(0, len(wrong) - 1)
    if lost:
        notes.append(f"{text}: {', '.join(wrong)} lost")
    return lost


def _wait_little() -> None:
    """Have transports that are made from now on wait little after a fault: hundreds follow each other here."""
    quick: dict[str, dict[str, float]] = {
        "grid": {"first_retry_wait": 0.02, "longest_retry_wait": 0.1, "progress_seconds": 0.01},
        "horde": {"first_retry_wait": 0.02, "fault_hold": 0.0, "first_idle_wait": 0.05, "longest_idle_wait": 0.1},
    }
    known = cast("dict[str, Network[Any]]", networks.NETWORKS)
    for name, network in list(known.items()):

        def settings(config: Config, devices: int, network: Network[Any] = network, name: str = name) -> Any:
            return dataclasses.replace(network.settings(config, devices), **quick[name])

        known[name] = dataclasses.replace(network, settings=settings)


def _config(grid: LocalGrid, key: Path) -> Config:
    return Config.model_validate(
        {
            "api_key": grid.key,
            "dreamer_name": "struck",
            "bridge_agent": "AI Horde Worker reGen:10.1.0:https://github.com/Haidra-Org/horde-worker-reGen",
            "network": "both",
            "grid_url": grid.worker_url,
            "grid_http_url": grid.url,
            "horde_url": grid.horde_url,
            "grid_connections": CONNECTIONS,
            "worker_identity_key_file": str(key),
            "models_to_load": ["shapes-tiny"],
            "backends": ["rowwise"],
            "queue_size": 4,
            "stats_output_frequency": 0,
        }
    )
