from __future__ import annotations

import socket
from collections.abc import Callable

import aiohttp
import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from trt_worker.errors import ConfigError
from trt_worker.network_state import NetworkState
from trt_worker.telemetry.exporter import serve_metrics
from trt_worker.telemetry.metrics import JobRecord, Tally

ARecord = Callable[..., JobRecord]


async def scraped(port: int) -> dict[tuple[str, tuple[str, ...]], float]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = await answer.text()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_tells_the_tally_of_that_moment(a_record: ARecord) -> None:
    tally = Tally(began=0.0)

    async def main() -> None:
        async with serve_metrics(lambda: tally.snapshot(200.0), port=0) as port:
            assert (await scraped(port))["trt_worker_jobs_total", ("paid",)] == 0

            tally.finished(a_record())
            tally.called(calls=2, rows=6)
            tally.fell_back('a "quoted" reason\nof two lines')
            tally.queued(4)
            values = await scraped(port)

        assert values["trt_worker_jobs_total", ("paid",)] == 1
        assert values["trt_worker_images_total", ()] == 1
        assert values["trt_worker_megapixel_steps_total", ()] == 10
        assert values["trt_worker_reward_total", ("den",)] == 2
        assert values["trt_worker_mps", ("engine",)] == 5
        assert values["trt_worker_mps", ("device",)] == 2
        assert values["trt_worker_mps", ("grid",)] == 1
        assert values["trt_worker_engine_rows_total", ()] == 6
        assert values["trt_worker_queue_jobs", ()] == 4
        assert values["trt_worker_fallbacks_total", ('a "quoted" reason\\nof two lines',)] == 1

    anyio.run(main)


def test_a_scrape_tells_how_it_stands_with_each_network() -> None:
    states = [
        NetworkState(
            network="grid",
            connections=4,
            connected=3,
            busy=2,
            reconnects=5,
            withdrawn={"m": "why"},
            unserved={"m, 'edit' (0x12)": "why"},
            lost={"rig-2": "why"},
        ),
        NetworkState(network="horde", connections=1, connected=1, busy=0, reconnects=0),
    ]

    async def main() -> None:
        async with serve_metrics(lambda: Tally(began=0.0).snapshot(1.0, states), port=0) as port:
            values = await scraped(port)

        assert values["trt_worker_connections", ("grid",)] == 4
        assert values["trt_worker_connected", ("grid",)] == 3
        assert values["trt_worker_network_jobs", ("grid",)] == 2
        assert values["trt_worker_reconnects_total", ("grid",)] == 5
        assert values["trt_worker_reconnects_total", ("horde",)] == 0
        assert values["trt_worker_withdrawn_model", ("m", "grid")] == 1
        assert values["trt_worker_unserved_recipe", ("grid", "m, 'edit' (0x12)")] == 1
        assert values["trt_worker_lost_name", ("rig-2", "grid")] == 1

    anyio.run(main)


def test_two_workers_in_one_process_keep_their_own_figures(a_record: ARecord) -> None:
    one, other = Tally(began=0.0), Tally(began=0.0)
    one.finished(a_record())

    async def main() -> None:
        async with (
            serve_metrics(lambda: one.snapshot(200.0), port=0) as first,
            serve_metrics(lambda: other.snapshot(200.0), port=0) as second,
        ):
            assert (await scraped(first))["trt_worker_images_total", ()] == 1
            assert (await scraped(second))["trt_worker_images_total", ()] == 0

    anyio.run(main)


def test_a_port_that_is_taken_is_a_configuration_error_that_names_it() -> None:
    async def main(port: int) -> None:
        async with serve_metrics(lambda: Tally(began=0.0).snapshot(1.0), port=port):
            pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            anyio.run(main, port)
