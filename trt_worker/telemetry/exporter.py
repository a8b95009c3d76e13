"""The tally for Prometheus, over HTTP on this machine only; off unless the operator names a port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trt_worker.errors import ConfigError
from trt_worker.network_state import NetworkState
from trt_worker.telemetry.metrics import Snapshot

LOOPBACK = "127.0.0.1"
PREFIX = "trt_worker_"


class SnapshotCollector(Collector):
    """Translates a snapshot, taken anew for every scrape, into metric families."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        now = self._snapshot()
        yield _gauge("session_seconds", "Seconds since the worker started", now.session_seconds)
        yield _gauge("queue_jobs", "Jobs taken and not yet on a device", now.queue)
        yield _counter("images", "Images handed in", now.images)
        yield _counter("megapixel_steps", "Work handed in: W * H / 1e6 * steps * images", now.megapixel_steps)
        yield _counter("engine_calls", "Denoiser calls", now.engine_calls)
        yield _counter("engine_rows", "Rows in denoiser calls", now.engine_rows)

        jobs = CounterMetricFamily(PREFIX + "jobs", "Jobs by how they were settled", labels=["settlement"])
        for settlement, count in now.settled.items():
            jobs.add_metric([settlement.value], count)
        yield jobs

        reward = CounterMetricFamily(PREFIX + "reward", "What came in", labels=["unit"])
        for unit, earning in now.earned.items():
            reward.add_metric([unit], earning.total)
        yield reward

        speed = GaugeMetricFamily(PREFIX + "mps", "Megapixel-steps per second, sliding window", labels=["scope"])
        for scope, measured in now.speeds.items():
            if measured.window is not None:
                speed.add_metric([scope.value], measured.window)
        yield speed

        fallbacks = CounterMetricFamily(PREFIX + "fallbacks", "Jobs not run on the first backend", labels=["reason"])
        for reason, count in now.fallbacks.items():
            fallbacks.add_metric([reason], count)
        yield fallbacks
        yield from _networks(now.networks)


@asynccontextmanager
async def serve_metrics(snapshot: Callable[[], Snapshot], port: int) -> AsyncIterator[int]:
    """Answer `GET /metrics` on the loopback address while the context is open.

    It answers on the caller's event loop, so that the tally keeps a single thread.

    Args:
        snapshot: the tally at this moment.
        port: 0 takes any free one.
    Yields: the port in use.
    Raises: ConfigError: the port cannot be had.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot))

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.router.add_get("/metrics", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, LOOPBACK, port).start()
        except OSError as error:
            raise ConfigError(
                f"metrics: port {port} on {LOOPBACK} cannot be had ({error.strerror}); name another or leave it out"
            ) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _networks(networks: Sequence[NetworkState]) -> Iterator[Metric]:
    """A network's figures under its name; what is withheld, one sample for each model, recipe and name."""
    connections = GaugeMetricFamily(PREFIX + "connections", "Connections, or names, kept", labels=["network"])
    connected = GaugeMetricFamily(PREFIX + "connected", "Connections that are up", labels=["network"])
    busy = GaugeMetricFamily(PREFIX + "network_jobs", "Jobs under way", labels=["network"])
    reconnects = CounterMetricFamily(PREFIX + "reconnects", "Connections made anew", labels=["network"])
    withdrawn = GaugeMetricFamily(PREFIX + "withdrawn_model", "Models not offered", labels=["network", "model"])
    unserved = GaugeMetricFamily(PREFIX + "unserved_recipe", "Recipes not served", labels=["network", "recipe"])
    lost = GaugeMetricFamily(PREFIX + "lost_name", "Worker names that are over", labels=["network", "name"])
    for each in networks:
        connections.add_metric([each.network], each.connections)
        connected.add_metric([each.network], each.connected)
        busy.add_metric([each.network], each.busy)
        reconnects.add_metric([each.network], each.reconnects)
        for family, subjects in ((withdrawn, each.withdrawn), (unserved, each.unserved), (lost, each.lost)):
            for subject in subjects:
                family.add_metric([each.network, subject], 1)
    yield from (connections, connected, busy, reconnects, withdrawn, unserved, lost)


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, description, value=value)


def _counter(name: str, description: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, description, value=value)
