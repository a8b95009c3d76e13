"""The whole worker as a process of its own, on a local grid: drained, refused, struck by faults, reloaded."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import psutil
import pytest
from anyio.abc import Process
from loguru import logger
from PIL import Image

from trt_engines.model import BUILT_IN
from trt_engines.news import News
from trt_worker.app import announce, open_worker
from trt_worker.config.schema import Config
from trt_worker.delivery import Settlement
from trt_worker.local_grid.faults import Fault, Faults
from trt_worker.local_grid.requests import GridResult, HordeRequest, ImageRequest
from trt_worker.local_grid.server import LocalGrid
from trt_worker.local_grid.settings import GridSettings
from trt_worker.supervisor import newcomers
from trt_worker.telemetry.metrics import JobRecord

pytestmark = pytest.mark.anyio
CONNECTIONS = 4


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


def devices_of(worker: Process) -> list[psutil.Process]:
    """Its device processes: another child may be looking for new checkpoints."""
    children = psutil.Process(worker.pid).children()
    return [one for one in children if any("device.process" in word for word in one.cmdline())]


@asynccontextmanager
async def a_worker(
    grid: LocalGrid,
    folder: Path,
    *,
    config: Mapping[str, object] | None = None,
    key: str | None = None,
    environment: bool = False,
    options: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[Process]:
    """A worker process whose device costs nothing, configured by a file in `folder` or by its environment alone.

    Args:
        options: further ones of the command line.
        variables: further ones of its environment.
    """
    settings: dict[str, object] = {
        "api_key": key or grid.key,
        "dreamer_name": "rig",
        "network": "grid",
        "grid_url": grid.worker_url,
        "grid_http_url": grid.url,
        "grid_connections": CONNECTIONS,
        "backends": "dummy",
        "log_dir": str(folder / "logs"),
        "cache_home": str(folder / "models"),
    }
    lines = [f"{name}: {value}" for name, value in (settings | dict(config or {})).items()]
    file = folder / "bridgeData.yaml"
    file.write_text("\n".join(lines) + "\n")
    told = {f"AIWORKER_{name.upper()}": str(value) for name, value in (settings | dict(config or {})).items()}
    process = await anyio.open_process(
        [sys.executable, "-m", "trt_worker", "run", *(["-e"] if environment else ["-c", str(file)]), *options],
        env={**os.environ, **(told if environment else {}), **(variables or {})},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.aclose()


async def said_by(process: Process) -> str:
    """Everything a process prints until it ends."""
    assert process.stdout is not None
    return b"".join([chunk async for chunk in process.stdout]).decode()


async def _refused_img2img(grid: LocalGrid) -> None:
    """Return once the worker takes no job with a source image any more."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    status = 200
    while status == 200:
        status = (await (await grid.submit_grid(ImageRequest(source_image=buffer.getvalue()))).result()).status


def a_request(seed: int, **changes: object) -> ImageRequest:
    return ImageRequest(**({"width": 64, "height": 64, "steps": 4, "seed": seed} | changes))  # type: ignore[arg-type]


async def test_sigterm_finishes_what_was_taken_and_leaves_with_zero(tmp_path: Path) -> None:
    async with LocalGrid() as grid, a_worker(grid, tmp_path) as process:
        with anyio.fail_after(60):
            await grid.connected(CONNECTIONS)
            handles = [await grid.submit_grid(a_request(seed, steps=60, n=2)) for seed in range(CONNECTIONS)]
            for handle in handles:
                await handle.dispatched()

            process.send_signal(signal.SIGTERM)
            results = [await handle.result() for handle in handles]
            status = await process.wait()

    assert status == 0
    assert [(result.status, result.requeues) for result in results] == [(200, 0)] * CONNECTIONS
    assert grid.violations() == []


async def test_sides_that_no_level_of_the_network_halves_are_drawn_by_its_first_choice(tmp_path: Path) -> None:
    config = {"backends": "onnxruntime", "grid_connections": 1}
    async with LocalGrid() as grid, a_worker(grid, tmp_path, config=config):
        with anyio.fail_after(60):
            await grid.connected(1)
            handles = [await grid.submit_grid(a_request(1, width=72, height=136, steps=2, n=2)) for _ in range(2)]
            results = [await handle.result() for handle in handles]

    assert [(result.status, result.requeues) for result in results] == [(200, 0)] * 2
    sizes = {Image.open(io.BytesIO(image.data)).size for result in results for image in result.images}
    assert sizes == {(72, 136)}


async def test_a_second_signal_stops_at_once_and_the_jobs_go_back_to_the_grid(tmp_path: Path) -> None:
    async with LocalGrid() as grid, a_worker(grid, tmp_path) as process:
        with anyio.fail_after(60):
            await grid.connected(CONNECTIONS)
            handle = await grid.submit_grid(a_request(1, steps=80, n=4, width=1024, height=1024))
            await handle.dispatched()

            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            await process.wait()

        assert not handle.has_ended
        assert grid.violations() == []


async def test_a_wrong_key_is_one_clear_line_and_the_key_appears_nowhere(tmp_path: Path) -> None:
    secret = "grid_this-is-not-a-key-of-anybody-0123456789"
    async with LocalGrid() as grid, a_worker(grid, tmp_path, key=secret) as process:
        with anyio.fail_after(60):
            said = await said_by(process)
            status = await process.wait()

    assert status == 1
    assert "key" in said.lower()
    written = "".join(file.read_text() for file in (tmp_path / "logs").iterdir())
    assert secret not in said + written


async def test_the_key_is_in_no_process_listing(tmp_path: Path) -> None:
    async with LocalGrid() as grid, a_worker(grid, tmp_path) as process:
        with anyio.fail_after(60):
            await grid.connected(CONNECTIONS)
            parent = psutil.Process(process.pid)
            family = [parent, *parent.children(recursive=True)]
            shown = [word for member in family for word in (*member.cmdline(), *member.environ().values())]

    assert len(family) == 2
    assert not any(grid.key in word for word in shown)


async def test_no_setting_of_the_environment_is_handed_on_to_the_device(tmp_path: Path) -> None:
    async with LocalGrid() as grid, a_worker(grid, tmp_path, environment=True) as process:
        with anyio.fail_after(60):
            await grid.connected(CONNECTIONS)
            (device,) = psutil.Process(process.pid).children(recursive=True)

            assert not [name for name in device.environ() if name.startswith("AIWORKER_")]


async def test_the_start_says_that_no_picture_is_looked_at(tmp_path: Path) -> None:
    async with LocalGrid() as grid, a_worker(grid, tmp_path) as process:
        with anyio.fail_after(60):
            await grid.connected(CONNECTIONS)
            process.send_signal(signal.SIGTERM)
            said = await said_by(process)

    assert said.count("no safety classifier") == 1


async def test_every_job_is_answered_once_whatever_breaks(tmp_path: Path) -> None:
    faults = Faults(
        drop_mid_job=Fault(count=4, probability=0.2),
        drop_after_done=Fault(count=3, probability=0.2),
        put_error=Fault(count=6, probability=0.2),
        duplicate_ack=Fault(count=4, probability=0.2),
    )
    async with LocalGrid() as grid, a_worker(grid, tmp_path) as process:
        with anyio.fail_after(120):
            await grid.connected(CONNECTIONS)
            grid.faults = faults
            handles = [await grid.submit_grid(a_request(seed, n=1 + seed % 4)) for seed in range(40)]
            results = [await handle.result() for handle in handles]
            process.send_signal(signal.SIGTERM)
            await process.wait()

    assert {result.status for result in results} == {200}
    assert all(image.is_intact for result in results for image in result.images)
    assert grid.violations() == []


async def test_a_killed_device_process_costs_no_job(tmp_path: Path) -> None:
    async with LocalGrid() as grid, a_worker(grid, tmp_path) as process:
        with anyio.fail_after(90):
            await grid.connected(CONNECTIONS)
            handles = [await grid.submit_grid(a_request(seed, steps=80, n=4)) for seed in range(CONNECTIONS)]
            for handle in handles:
                await handle.dispatched()
            (device,) = devices_of(process)
            os.kill(device.pid, signal.SIGKILL)

            results: list[GridResult] = [await handle.result() for handle in handles]

    assert [(result.status, len(result.images), result.requeues) for result in results] == [(200, 4, 0)] * CONNECTIONS
    assert grid.violations() == []


async def test_two_cards_are_two_devices_and_one_of_them_can_be_lost(
    tmp_path: Path, nvidia_smi: Callable[..., None]
) -> None:
    cards = [f"{index}, GPU-{index}, NVIDIA GeForce RTX 3060, 8.6, 12288, 580.95.05" for index in range(2)]
    nvidia_smi("\n".join(cards))
    async with LocalGrid() as grid, a_worker(grid, tmp_path) as process:
        with anyio.fail_after(90):
            await grid.connected(CONNECTIONS)
            devices = devices_of(process)
            handles = [await grid.submit_grid(a_request(seed, steps=80, n=4)) for seed in range(CONNECTIONS)]
            for handle in handles:
                await handle.dispatched()
            os.kill(devices[0].pid, signal.SIGKILL)

            results = [await handle.result() for handle in handles]

    assert len(devices) == 2
    assert [(result.status, result.requeues) for result in results] == [(200, 0)] * CONNECTIONS
    for index in range(2):
        assert f"CUDA_VISIBLE_DEVICES is 'GPU-{index}'" in (tmp_path / "logs" / f"bridge_{index + 1}.log").read_text()


async def test_one_worker_per_card_under_a_name_of_its_own_shares_a_folder_with_the_others(
    tmp_path: Path, nvidia_smi: Callable[..., None]
) -> None:
    cards = [f"{index}, GPU-{index}, NVIDIA GeForce RTX 3060, 8.6, 12288, 580.95.05" for index in range(2)]
    nvidia_smi("\n".join(cards))
    async with LocalGrid() as grid:
        first = a_worker(grid, tmp_path, options=["-n", "rig one"], variables={"CUDA_VISIBLE_DEVICES": "0"})
        second = a_worker(grid, tmp_path, options=["-n", "rig two"], variables={"CUDA_VISIBLE_DEVICES": "1"})
        async with first, second:
            with anyio.fail_after(90):
                await grid.connected(2 * CONNECTIONS)
                handles = [await grid.submit_grid(a_request(seed)) for seed in range(2 * CONNECTIONS)]
                results = [await handle.result() for handle in handles]

    assert [result.status for result in results] == [200] * (2 * CONNECTIONS)
    assert {frame["name"] for frame in grid.sockets.registrations} >= {"rig one", "rig two"}
    for index, name in enumerate(["rig one", "rig two"]):
        log = (tmp_path / "logs" / name / "bridge_1.log").read_text()
        assert log.count("CUDA_VISIBLE_DEVICES is ") == log.count(f"CUDA_VISIBLE_DEVICES is 'GPU-{index}'") == 1


async def test_both_networks_are_served_by_one_worker_and_every_answer_is_counted_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with (
        LocalGrid() as grid,
        a_worker(grid, tmp_path, config={"network": "both", "horde_url": grid.horde_url, "metrics_port": port}),
        aiohttp.ClientSession() as session,
    ):
        with anyio.fail_after(60):
            await grid.connected(CONNECTIONS)
            assert (await (await grid.submit_grid(a_request(1, loras=[{"name": "1"}]))).result()).status == 502
            over_grid = await grid.submit_grid(a_request(1))
            over_horde = await grid.submit_horde(HordeRequest(width=64, height=64, n=2, extra={"r2": False}))

            assert (await over_grid.result()).status == 200
            assert len((await over_horde.result()).images) == 2

            figures: dict[str, float] = {}
            while figures.get('trt_worker_jobs_total{settlement="paid"}') != 2:  # the answer is ahead of the receipt
                async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                    lines = [line.rpartition(" ") for line in (await answer.text()).splitlines() if line[0] != "#"]
                    figures = {name: float(value) for name, _, value in lines}

    assert {name: value for name, value in figures.items() if "settlement" in name and value} == {
        'trt_worker_jobs_total{settlement="paid"}': 2,
        'trt_worker_jobs_total{settlement="failed"}': 1,
    }
    assert figures['trt_worker_connected{network="grid"}'] == CONNECTIONS
    assert figures['trt_worker_connected{network="horde"}'] == 1


@pytest.mark.parametrize("settlement", Settlement)
def test_only_a_result_that_was_taken_is_told_as_a_success(settlement: Settlement) -> None:
    record = JobRecord(
        id="job",
        model="m",
        transport="grid",
        backend="dummy",
        width=64,
        height=64,
        steps=1,
        images=1,
        settlement=settlement,
        received=0.0,
        acknowledged=1.0,
    )
    levels: list[str] = []
    sink = logger.add(lambda message: levels.append(message.record["level"].name))
    announce(record)
    logger.remove(sink)

    assert levels == ["SUCCESS" if settlement in {Settlement.PAID, Settlement.UNPAID} else "WARNING"]


async def test_a_change_of_the_file_takes_effect_while_running_and_closes_only_what_it_must(tmp_path: Path) -> None:
    async with LocalGrid(GridSettings(ping_seconds=0.1)) as grid, a_worker(grid, tmp_path) as process:
        with anyio.fail_after(90):
            await grid.connected(CONNECTIONS)
            file = tmp_path / "bridgeData.yaml"
            file.write_text(file.read_text() + "allow_img2img: false\nqueue_size: 3\n")
            process.send_signal(signal.SIGHUP)
            await _refused_img2img(grid)
            assert len(grid.sockets.registrations) == CONNECTIONS

            file.write_text(file.read_text() + "models_to_load: [nothing-of-the-kind]\n")
            process.send_signal(signal.SIGHUP)
            await grid.connected(0)
            file.write_text(file.read_text().replace("nothing-of-the-kind", "shapes-tiny") + "drain_seconds: 0\n")
            process.send_signal(signal.SIGHUP)
            await grid.connected(CONNECTIONS)
            assert (await (await grid.submit_grid(a_request(1))).result()).status == 200

            handle = await grid.submit_grid(a_request(2, steps=80, n=4, width=1024, height=1024))
            await handle.dispatched()
            process.send_signal(signal.SIGTERM)  # no job is waited for any more
            await process.wait()
            assert not handle.has_ended


def a_model_folder(models: Path, name: str) -> Path:
    """The shipped model under another name, its files linked to."""
    folder = shutil.copytree(BUILT_IN / "shapes-tiny", models / name, copy_function=os.symlink)
    said = json.loads((folder / "model.json").read_text())
    (folder / "model.json").unlink()
    (folder / "model.json").write_text(json.dumps(said | {"name": name}))
    return folder


async def test_models_that_are_broken_cut_mended_or_appear_while_the_worker_runs_cost_no_customer_an_error(
    tmp_path: Path,
) -> None:
    models = tmp_path / "models"
    (a_model_folder(models, "broken") / "model.json").write_text("{")
    cut = a_model_folder(models, "cut") / "unet" / "diffusion_pytorch_model.safetensors"
    cut.unlink()
    cut.write_bytes(b"\0")
    async with (
        LocalGrid() as grid,
        a_worker(grid, tmp_path, config={"models_to_load": "[shapes-tiny, cut]"}) as process,
    ):
        with anyio.fail_after(90):
            await grid.connected(CONNECTIONS)
            a_model_folder(models, "later")
            file = tmp_path / "bridgeData.yaml"
            file.write_text(file.read_text().replace("cut]", "cut, later]"))
            process.send_signal(signal.SIGHUP)
            first = await (await grid.submit_grid(a_request(1, model="later"))).result()
            (device,) = devices_of(process)
            os.kill(device.pid, signal.SIGKILL)  # the next process must not stumble over the broken one either
            second = await (await grid.submit_grid(a_request(2, model="later"))).result()
            offered = {name for frame in grid.sockets.registrations for name in frame["models"]}
            waiting = await grid.submit_grid(a_request(3, model="cut"))
            shutil.copy2(BUILT_IN / "shapes-tiny" / "unet" / cut.name, cut)
            file.write_text(file.read_text().replace(", later]", "]"))
            process.send_signal(signal.SIGHUP)  # what is offered is looked at again
            third = await waiting.result()

    assert [result.status for result in (first, second, third)] == [200] * 3
    assert offered == {"shapes-tiny", "later"}
    log = (tmp_path / "logs" / "bridge.log").read_text()
    assert "A model is passed over" in log
    assert str(models / "broken" / "model.json") in log
    assert "cut is not offered any more" in log
    assert "cut is offered again" in log


async def test_what_the_operator_must_mend_ends_the_start_with_two_and_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wrong: dict[str, dict[str, object]] = {
            "log_dir": {"log_dir": "/dev/null/logs"},
            "metrics": {"metrics_port": taken.getsockname()[1]},
        }
        async with LocalGrid() as grid:
            for named, config in wrong.items():
                async with a_worker(grid, tmp_path, config=config) as process:
                    with anyio.fail_after(60):
                        said = await said_by(process)

                        assert await process.wait() == 2
                assert named in said
                assert "Traceback" not in said


async def test_a_bad_file_ends_the_start_with_two_and_says_where(tmp_path: Path) -> None:
    async with LocalGrid() as grid, a_worker(grid, tmp_path, config={"max_batch": "many"}) as process:
        with anyio.fail_after(30):
            said = await said_by(process)

            assert await process.wait() == 2
    assert "max_batch" in said
    assert "line" in said
    assert "Traceback" not in said


async def test_one_name_runs_once_in_a_folder(tmp_path: Path) -> None:
    async with LocalGrid() as grid, a_worker(grid, tmp_path):
        with anyio.fail_after(90):
            await grid.connected(CONNECTIONS)
            async with a_worker(grid, tmp_path, options=["-n", "rig"]) as second:
                said = await said_by(second)
                assert await second.wait() == 2
    assert "'rig' (process " in said
    assert "Traceback" not in said


async def test_a_model_that_is_added_while_the_worker_serves_is_offered_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    ready = a_model_folder(tmp_path / "elsewhere", "later")
    code = f"""
import os, sys
os.rename({str(ready)!r}, {str(models / "later")!r})
sys.stdout.buffer.write({News(text="later is added", added="later").line()!r})
"""
    monkeypatch.setattr(newcomers, "command", lambda _config: [sys.executable, "-c", code])

    async with LocalGrid() as grid:
        config = Config.model_validate(
            {
                "api_key": grid.key,
                "dreamer_name": "rig",
                "network": "grid",
                "grid_url": grid.worker_url,
                "grid_http_url": grid.url,
                "grid_connections": 1,
                "backends": ["dummy"],
                "cache_home": models,
            }
        )
        async with open_worker(config, newcomers=True):
            with anyio.fail_after(90):
                result = await (await grid.submit_grid(a_request(1, model="later"))).result()

    assert result.status == 200, result.message
