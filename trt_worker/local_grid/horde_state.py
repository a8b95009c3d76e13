"""What the Horde remembers: workers, requests, and the images under way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trt_worker.local_grid.ledger import Entry
from trt_worker.local_grid.requests import HordeHandle
from trt_worker.local_grid.settings import Account

FIRST_SPEED = 1_000_000.0  # pixel-steps per second, assumed until a worker has delivered
_SPEEDS_KEPT = 20


@dataclass(slots=True, kw_only=True, eq=False)
class HordeWorker:
    """One worker by name, with what it said at its last check-in."""

    id: str
    name: str
    owner: Account
    said: dict[str, Any]  # the stored fields of its pops
    models: tuple[str, ...] = ()
    created: float = field(default_factory=time.monotonic)
    checked_in: float = field(default_factory=time.monotonic)
    stored: float = field(default_factory=time.monotonic)  # when `said` was last replaced
    maintenance: str | None = None  # the text shown; None: not in maintenance
    paused: bool = False
    info: str | None = None
    suspicion: int = 0
    fulfilled: int = 0
    uncompleted: int = 0
    kudos: float = 0.0
    pixel_steps: float = 0.0
    speeds: deque[float] = field(default_factory=lambda: deque(maxlen=_SPEEDS_KEPT))  # pixel-steps per second
    drops: deque[float] = field(default_factory=deque)  # when images were faulted or late
    tricked: set[str] = field(default_factory=set)  # requests it got as fakes
    messages: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Mean pixel-steps per second of the last deliveries."""
        return sum(self.speeds) / len(self.speeds) if self.speeds else FIRST_SPEED


@dataclass(slots=True, kw_only=True, eq=False)
class ImageSlot:
    """One wanted image of a request."""

    index: int
    faults: int = 0
    final: Generation | None = None  # the one that delivered


@dataclass(slots=True, kw_only=True, eq=False)
class Generation:
    """One image in one worker's hands."""

    id: str
    request: Request
    slot: ImageSlot
    worker: HordeWorker
    model: str
    started: float
    ttl: float  # seconds
    fake: bool
    reward: float
    upload_key: str
    aborted: bool = False  # faulted or too late
    done: float | None = None
    result: str = ""  # "R2", base64, or whatever was sent
    seed: int = 0
    censored: bool = False
    metadata: tuple[Mapping[str, Any], ...] = ()


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One request and its images."""

    id: str
    owner: Account
    body: Mapping[str, Any]
    params: Mapping[str, Any]
    seed: int
    handle: HordeHandle
    entry: Entry
    waiting: deque[ImageSlot]
    slots: tuple[ImageSlot, ...]
    source_image: bytes | None
    source_mask: bytes | None
    extra_images: tuple[tuple[bytes, float], ...]
    created: float = field(default_factory=time.monotonic)
    generations: list[Generation] = field(default_factory=list)
    restarted: int = 0
    safe_ip: bool = True
    cancelled: bool = False
    faulted: bool = False
    consumed: float = 0.0  # kudos

    @property
    def finished(self) -> int:
        """Images delivered."""
        return sum(slot.final is not None for slot in self.slots)

    @property
    def processing(self) -> int:
        """Images in workers' hands."""
        return sum(not each.aborted and each.done is None and not each.fake for each in self.generations)

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return not self.waiting and not self.processing

    def flag(self, name: str, default: bool) -> bool:
        """A boolean of the request's body."""
        return bool(self.body.get(name, default))

    @property
    def width(self) -> int:
        return int(self.params.get("width", 512))

    @property
    def height(self) -> int:
        return int(self.params.get("height", 512))

    @property
    def steps(self) -> int:
        return int(self.params.get("steps", 30))

    @property
    def pixel_steps(self) -> float:
        """Work of one image."""
        return float(self.width * self.height * self.steps)
