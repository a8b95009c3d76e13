"""What a change of the configuration does to the networks: as little as it can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import anyio
import pytest
from anyio.abc import ObjectSendStream

from trt_engines.model import Model
from trt_worker.config.keys import RELOADED
from trt_worker.config.schema import Config
from trt_worker.delivery import Offer
from trt_worker.errors import TransportClosed
from trt_worker.intake.grid.settings import FIXED as GRID_FIXED
from trt_worker.intake.horde.settings import FIXED as HORDE_FIXED
from trt_worker.job import JobSpec
from trt_worker.networks import NETWORKS, Network, Networks

pytestmark = pytest.mark.anyio

BOTH = Config(network="both", horde_url="https://horde.example/api/", dreamer_name="rig")
OTHER: dict[type, Any] = {bool: lambda old: not old, int: lambda old: old + 1, float: lambda old: old + 1.0,
                          tuple: lambda old: (*old, "somebody#1")}  # fmt: skip
CONCERNED = {
    "max_power": {"horde"},
    "nsfw": {"horde"},
    "blacklist": {"horde"},
    "allow_img2img": {"grid", "horde"},
    "allow_unsafe_ip": {"horde"},
    "priority_usernames": {"horde"},
    "require_upfront_kudos": {"horde"},
    "extra_slow_worker": {"horde"},
    "limit_max_steps": {"horde"},
}
"""Keys that can change in a running worker and that a transport is made of."""


def edited(config: Config, key: str) -> Config:
    old = getattr(config, key)
    return config.model_copy(update={key: OTHER[type(old)](old)})


def differing(network: str, old: Config, new: Config) -> set[str]:
    """The settings of a network's transport in which two configurations differ."""
    before, after = (NETWORKS[network].settings(config, 1) for config in (old, new))
    return {
        field.name
        for field in fields(before)
        if field.compare and getattr(before, field.name) != getattr(after, field.name)
    }


@pytest.mark.parametrize("key", sorted(RELOADED))
def test_an_edit_concerns_only_the_networks_that_are_made_of_its_key(key: str) -> None:
    concerned = {network for network in NETWORKS if differing(network, BOTH, edited(BOTH, key))}

    assert concerned == CONCERNED.get(key, set())


@pytest.mark.parametrize(("network", "fixed"), [("grid", GRID_FIXED), ("horde", HORDE_FIXED)])
def test_no_edit_that_takes_effect_needs_a_transport_that_is_made_anew(network: str, fixed: tuple[str, ...]) -> None:
    changed = set().union(*(differing(network, BOTH, edited(BOTH, key)) for key in RELOADED))

    assert changed.isdisjoint(fixed)


class NoGate:
    def models_served(self) -> Mapping[str, Model]:
        return {}

    async def models_changed(self) -> None:
        await anyio.sleep_forever()

    def room(self) -> int:
        return 1

    async def wait_for_room(self) -> None:
        return

    def refusal(self, job: JobSpec) -> str | None:
        return None


@dataclass(frozen=True)
class Numbers:
    power: int


class Remembering:
    """A transport that keeps what it is told; it works until it is stopped, or is closed for good."""

    name = "remembering"

    def __init__(self, settings: Numbers) -> None:
        self.told: list[object] = [settings]
        self.ends = anyio.Event()
        self.error: Exception | None = None

    async def run(self, offers: ObjectSendStream[Offer], **_: object) -> None:
        await self.ends.wait()
        if self.error is not None:
            raise self.error

    def stop_taking(self) -> None:
        self.ends.set()

    def end(self, error: Exception) -> None:
        self.error = error
        self.ends.set()

    def adopt(self, settings: Numbers) -> None:
        self.told.append(settings)


class Rig:
    """Networks whose settings are max_power alone, and every transport that they make."""

    def __init__(self) -> None:
        self.made: list[Remembering] = []
        network = Network(settings=lambda config, _: Numbers(config.max_power), transport=self._make)
        self.networks = Networks(
            NoGate(), self._serve, 1, known={"grid": network, "horde": network}, reconnect_seconds=0.0
        )

    def _make(self, settings: Numbers, _: object) -> Remembering:
        self.made.append(Remembering(settings))
        return self.made[-1]

    async def _serve(self, _: Offer) -> None:
        return


GRID = Config(network="grid")


async def test_a_transport_hears_of_other_settings_and_of_nothing_else() -> None:
    rig = Rig()
    rig.networks.start(GRID)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.networks.run)
        rig.networks.adopt(edited(GRID, "queue_size"))
        rig.networks.adopt(edited(GRID, "max_power"))
        rig.networks.adopt(edited(edited(GRID, "max_power"), "nsfw"))
        rig.networks.stop_taking()

    (transport,) = rig.made
    assert transport.told == [Numbers(32), Numbers(33)]


async def test_a_network_that_was_closed_is_tried_again_after_an_edit_and_the_others_work_on() -> None:
    rig = Rig()
    rig.networks.start(BOTH)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.networks.run)
        await anyio.wait_all_tasks_blocked()
        rig.made[1].end(TransportClosed("the key is wrong"))
        await anyio.wait_all_tasks_blocked()
        rig.networks.adopt(edited(BOTH, "nsfw"))
        await anyio.wait_all_tasks_blocked()
        rig.networks.stop_taking()

    assert len(rig.made) == 3
    assert [transport.told for transport in rig.made] == [[Numbers(32)]] * 3


async def test_the_work_ends_with_the_last_network() -> None:
    rig = Rig()
    rig.networks.start(GRID)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.networks.run)
        await anyio.wait_all_tasks_blocked()
        rig.made[0].end(TransportClosed("the key is wrong"))


async def test_a_transport_that_ends_by_something_unexpected_is_made_anew_and_the_others_work_on() -> None:
    rig = Rig()
    rig.networks.start(BOTH)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.networks.run)
        await anyio.wait_all_tasks_blocked()
        rig.made[0].end(RuntimeError("nobody expected this"))
        while len(rig.made) < 3:
            await anyio.wait_all_tasks_blocked()
        rig.networks.stop_taking()

    assert [transport.told for transport in rig.made] == [[Numbers(32)]] * 3
    assert rig.made[0].error is not None
    assert not rig.made[1].error
