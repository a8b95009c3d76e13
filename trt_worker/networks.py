"""The networks a worker takes jobs from: one transport each, which outlives changes of the configuration.

Closing a connection can cost a customer's job, so a change reaches a transport only if it changes what that transport
was made of, and then the transport goes on with other settings instead of being made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio.abc import ObjectSendStream, TaskGroup
from loguru import logger

from trt_worker import AGENT_NAME, __version__
from trt_worker.concurrency import Stop, first_leaf
from trt_worker.config.schema import Config
from trt_worker.delivery import Offer
from trt_worker.errors import ConfigError, TransportClosed
from trt_worker.intake.transport import Gate, Transport

if TYPE_CHECKING:  # a network that is not worked for is not imported: that is felt when the worker starts
    from trt_worker.intake.grid.settings import GridSettings
    from trt_worker.intake.horde.settings import HordeSettings

PROJECT_URL = "https://github.com/AIPowerGrid/trt-worker"

RECONNECT_SECONDS = 10.0
"""Wait after a transport has ended by something that nobody expected."""

Settings = TypeVar("Settings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network(Generic[Settings]):
    """How a configuration becomes one network's transport."""

    settings: Callable[[Config, int], Settings]  # of a configuration, and how many devices are to be kept busy
    transport: Callable[[Settings, Gate], Transport[Settings]]


def grid_settings(config: Config, devices: int) -> GridSettings:
    """What the grid's transport is made of. Raises: ConfigError: it cannot be made of this configuration."""
    from trt_worker.intake.grid.settings import GridSettings, trusting

    return GridSettings(
        url=config.grid_url,
        http_url=config.grid_http_url,
        api_key=config.api_key.get_secret_value(),
        name=config.dreamer_name,
        connections=config.connections(devices),
        bridge_agent=_agent(config),
        ack_seconds=config.ack_seconds,
        allow_img2img=config.allow_img2img,
        identity_key_file=config.worker_identity_key_file,
        delegations_file=config.worker_delegations_file,
        ssl_context=trusting(config.grid_url, config.grid_ca_file),
    )


def horde_settings(config: Config, devices: int) -> HordeSettings:
    """What the Horde's transport is made of. Raises: ConfigError: it cannot be made of this configuration."""
    from trt_worker.intake.horde.settings import HordeSettings

    return HordeSettings(
        url=config.horde_url,
        api_key=config.api_key.get_secret_value(),
        worker_name=config.dreamer_name,
        bridge_agent=_agent(config),
        max_power=config.max_power,
        max_batch=config.max_batch,
        threads=config.max_threads,
        nsfw=config.nsfw,
        blacklist=config.blacklist,
        priority_usernames=config.priority_usernames,
        allow_img2img=config.allow_img2img,
        allow_unsafe_ipaddr=config.allow_unsafe_ip,
        require_upfront_kudos=config.require_upfront_kudos,
        extra_slow_worker=config.extra_slow_worker,
        limit_max_steps=config.limit_max_steps,
        wallet_address=config.wallet_address,
        remove_maintenance_on_init=config.remove_maintenance_on_init,
    )


def _agent(config: Config) -> str:
    return config.bridge_agent or f"{AGENT_NAME}:{__version__}:{PROJECT_URL}"


def _grid(settings: GridSettings, gate: Gate) -> Transport[GridSettings]:
    from trt_worker.intake.grid.pool import GridTransport

    return GridTransport(settings, gate)


def _horde(settings: HordeSettings, gate: Gate) -> Transport[HordeSettings]:
    from trt_worker.intake.horde.transport import HordeTransport

    return HordeTransport(settings, gate)


NETWORKS: Mapping[str, Network[Any]] = {
    "grid": Network(settings=grid_settings, transport=_grid),
    "horde": Network(settings=horde_settings, transport=_horde),
}
"""By the names that `Config.networks` uses."""


@dataclass(slots=True)
class _Member(Generic[Settings]):
    """A network that is worked for."""

    settings: Settings
    transport: Transport[Settings]


class Networks:
    """The transports of a worker; `start` once, then `run`.

    Args:
        gate: what they ask before they take work.
        serve: sees one job through, from its offer to its receipt.
        devices: how many are to be kept busy.
    """

    def __init__(
        self,
        gate: Gate,
        serve: Callable[[Offer], Coroutine[Any, Any, None]],
        devices: int,
        *,
        known: Mapping[str, Network[Any]] = NETWORKS,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> None:
        self._reconnect_seconds = reconnect_seconds
        self._known = known
        self._gate = gate
        self._serve = serve
        self._devices = devices
        self._members: dict[str, _Member[Any]] = {}  # those that take jobs
        self._stop = Stop()
        self._tasks: TaskGroup | None = None
        self._offers, self._offered = anyio.create_memory_object_stream[Offer](0)

    def start(self, config: Config) -> None:
        """Make the transports that a configuration asks for. Raises: ConfigError: one of them cannot be made."""
        for name in sorted(config.networks):
            self._members[name] = self._made(name, config)

    async def run(self) -> None:
        """Take jobs until `stop_taking` or until no network pays any more; return after the last receipt."""
        async with anyio.create_task_group() as self._tasks:
            for name, member in self._members.items():
                self._tasks.start_soon(self._keep, name, member, self._offers.clone())
            async with self._offered:
                async for offer in self._offered:
                    self._tasks.start_soon(self._serve, offer)

    def adopt(self, config: Config) -> None:
        """Pass a changed configuration on to those whom it concerns; a network that was closed is tried again."""
        if self._stop.requested or not self._members:
            return
        for name in sorted(config.networks):
            try:
                self._adopt(name, config)
            except ConfigError as error:
                logger.error("{} The network {} goes on as it was.", error, name)

    @property
    def transports(self) -> list[Transport[Any]]:
        """Those that are at work."""
        return [member.transport for member in self._members.values()]

    def stop_taking(self) -> None:
        """Take no further job."""
        self._stop.request()
        for member in self._members.values():
            member.transport.stop_taking()

    def _made(self, name: str, config: Config) -> _Member[Any]:
        network = self._known[name]
        settings = network.settings(config, self._devices)
        return _Member(settings, network.transport(settings, self._gate))

    def _adopt(self, name: str, config: Config) -> None:
        member = self._members.get(name)
        if member is None:
            member = self._members[name] = self._made(name, config)
            if self._tasks is not None:
                self._tasks.start_soon(self._keep, name, member, self._offers.clone())
            return
        settings = self._known[name].settings(config, self._devices)
        if settings != member.settings:
            member.transport.adopt(settings)
            member.settings = settings

    async def _keep(self, name: str, member: _Member[Any], offers: ObjectSendStream[Offer]) -> None:
        """One network until its transport ends for good; with the last one, no further offer can come."""
        async with offers:
            try:
                while not await self._lives(name, member, offers):
                    member.transport = self._known[name].transport(member.settings, self._gate)
            except (TransportClosed, ConfigError) as closed:
                logger.error("{}: {}", name, closed)
        del self._members[name]
        if not self._members:
            self._offers.close()

    async def _lives(self, name: str, member: _Member[Any], offers: ObjectSendStream[Offer]) -> bool:
        """One life of a transport. False: it ended by what nobody expected, and a new one is to take its place.

        Raises: TransportClosed: it is over for good.
        """
        try:
            await member.transport.run(offers)
        except TransportClosed:
            raise
        except Exception as error:  # noqa: BLE001  # said here; no other network's jobs are worth less for it
            cause = first_leaf(error)
            logger.opt(exception=cause).error(
                "{}: an unexpected {}; it is connected anew in {:.0f} s",
                name,
                type(cause).__name__,
                self._reconnect_seconds,
            )
            with self._stop.ends():
                await anyio.sleep(self._reconnect_seconds)
            return self._stop.requested
        return True
