"""Running totals of the worker: what it finished, how fast, for what pay.

Three speeds, all in megapixel-steps per second (MPS/S): width * height / 1e6 * steps * images / seconds.

* engine: the time in which at least one job was being denoised;
* device: the time in which at least one job was on a device, from its start to its encoded bytes;
* grid: the time in which at least one job was ours, from dispatch to acknowledgement.

Jobs that share a batch share its seconds, so these are throughputs of the rig. The network sees another number: it
times every image by itself from dispatch to result and averages the last 20. That one decides the speed class.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from trt_engines.text import shown
from trt_worker.delivery import Settlement
from trt_worker.network_state import NetworkState

WINDOW_SECONDS = 900.0
"""How far back "now" reaches."""

NETWORK_SAMPLES = 20
"""Images whose speed the network averages."""

MAX_WINDOW_JOBS = 20_000
MAX_REASONS = 32
"""Different fallback reasons that are told apart; more are counted as "other"."""

OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job from arrival to settlement. Times are time.monotonic() seconds; None: it never got that far."""

    id: str
    model: str
    transport: str  # "grid" or "horde"
    backend: str  # what ran it, as in `Plan`; empty: nothing did
    width: int  # pixels
    height: int
    steps: int
    images: int  # handed in
    settlement: Settlement
    reward: float = 0.0
    unit: str = ""  # "den" or "kudos"
    received: float
    started: float | None = None  # a device began with it
    denoising: float | None = None  # its first denoiser call began; None with `denoised` set: same as `started`
    denoised: float | None = None  # its last denoiser call ended
    encoded: float | None = None  # the bytes of its last image were ready
    acknowledged: float  # the job was settled, however it ended

    @property
    def megapixel_steps(self) -> float:
        """Work as the networks count it."""
        return self.width * self.height / 1e6 * self.steps * self.images

    @property
    def image_speed(self) -> float | None:
        """MPS/S of one of its images as the network times it; None: nothing was handed in."""
        seconds = self.acknowledged - self.received
        if self.images == 0 or seconds <= 0:
            return None
        return self.megapixel_steps / self.images / seconds


class Scope(StrEnum):
    """Which seconds a speed is measured over."""

    ENGINE = "engine"
    DEVICE = "device"
    GRID = "grid"


class SpeedClass(StrEnum):
    """How the network's users see the worker."""

    GOOD = "good"
    ACCEPTABLE = "acceptable"
    SLOW = "slow"

    @property
    def advice(self) -> str:
        """What the operator should do; empty: nothing."""
        return "set extra_slow_worker: true, so that jobs get more time" if self is SpeedClass.SLOW else ""


def speed_class(mps: float) -> SpeedClass:
    """Class of a worker by its MPS/S as the network counts it.

    Source: the AI Horde gives workers below 0.5 no jobs of users who exclude slow workers; its documentation advises
    `extra_slow_worker` below 0.3.
    """
    if mps > 0.5:
        return SpeedClass.GOOD
    return SpeedClass.ACCEPTABLE if mps >= 0.3 else SpeedClass.SLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """MPS/S; None: nothing was measured."""

    window: float | None  # over the last WINDOW_SECONDS
    session: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Earning:
    """What came in, in one unit."""

    total: float
    per_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Mean seconds per job over the window; None: no job had both ends."""

    waiting: float | None  # arrival to a device
    making: float | None  # a device to encoded bytes
    handing_in: float | None  # bytes to acknowledgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything the tally knows at one moment."""

    session_seconds: float
    jobs: int
    images: int
    megapixel_steps: float
    settled: Mapping[Settlement, int]
    earned: Mapping[str, Earning]  # by unit
    speeds: Mapping[Scope, Speed]
    network_speed: float | None  # MPS/S as the network counts: mean of the last images, each timed by itself
    latency: Latency
    engine_calls: int
    engine_rows: int
    queue: int  # jobs taken and not yet on a device
    fallbacks: Mapping[str, int]  # by reason
    networks: Sequence[NetworkState] = ()

    @property
    def speed_class(self) -> SpeedClass | None:
        return None if self.network_speed is None else speed_class(self.network_speed)

    @property
    def occupancy(self) -> float | None:
        """Mean rows per engine call; None: no call yet."""
        return self.engine_rows / self.engine_calls if self.engine_calls else None

    @property
    def extrapolated(self) -> bool:
        """Whether the hourly figures rest on less than an hour."""
        return self.session_seconds < 3600


class BusyTime:
    """How long at least one of many overlapping intervals was open, in bounded memory."""

    MOST_INTERVALS = 512

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []  # disjoint, rising
        self._folded = 0.0  # seconds of spans too old to be touched again

    def add(self, start: float, end: float) -> None:
        """Count an interval; one that ends before it starts counts nothing."""
        if end <= start:
            return
        first = bisect_left(self._spans, start, key=lambda span: span[1])
        last = first
        while last < len(self._spans) and self._spans[last][0] <= end:
            start, end = min(start, self._spans[last][0]), max(end, self._spans[last][1])
            last += 1
        self._spans[first:last] = [(start, end)]
        if len(self._spans) > self.MOST_INTERVALS:
            old_start, old_end = self._spans.pop(0)
            self._folded += old_end - old_start

    @property
    def seconds(self) -> float:
        return self._folded + sum(end - start for start, end in self._spans)


@dataclass(slots=True)
class _Work:
    """Work and busy time of one scope over the session."""

    busy: BusyTime
    megapixel_steps: float = 0.0


class Tally:
    """The supervisor's running totals. One writer: everything that counts here runs on the supervisor's loop."""

    def __init__(self, began: float) -> None:
        """Args: began: time.monotonic() seconds at the start of the session."""
        self._began = began
        self._recent: deque[JobRecord] = deque(maxlen=MAX_WINDOW_JOBS)
        self._network: deque[float] = deque(maxlen=NETWORK_SAMPLES)
        self._session = {scope: _Work(BusyTime()) for scope in Scope}
        self._jobs = 0
        self._images = 0
        self._megapixel_steps = 0.0
        self._settled: Counter[Settlement] = Counter()
        self._earned: dict[str, float] = {}
        self._fallbacks: Counter[str] = Counter()
        self._calls = 0
        self._rows = 0
        self._queue = 0

    def finished(self, record: JobRecord) -> None:
        """Count a job that is settled, however it ended, at intake too: each job once, and here."""
        self._recent.append(record)
        while self._recent[0].acknowledged < record.acknowledged - WINDOW_SECONDS:
            self._recent.popleft()
        self._jobs += 1
        self._images += record.images
        self._megapixel_steps += record.megapixel_steps
        self._settled[record.settlement] += 1
        if record.unit:
            self._earned[record.unit] = self._earned.get(record.unit, 0.0) + record.reward
        if (speed := record.image_speed) is not None:
            self._network.extend([speed] * record.images)
        for scope, work in self._session.items():
            if (span := _span(record, scope)) is not None:
                work.busy.add(*span)
                work.megapixel_steps += record.megapixel_steps

    def called(self, *, calls: int, rows: int) -> None:
        """Count engine calls of the denoiser and the rows that were in them."""
        self._calls += calls
        self._rows += rows

    def fell_back(self, reason: str) -> None:
        """Count a job that did not run on the card's first backend."""
        reason = shown(reason)
        known = reason in self._fallbacks or len(self._fallbacks) < MAX_REASONS
        self._fallbacks[reason if known else OTHER] += 1

    def queued(self, jobs: int) -> None:
        """Say how many jobs are taken and not yet on a device."""
        self._queue = jobs

    def snapshot(self, now: float, networks: Sequence[NetworkState] = ()) -> Snapshot:
        """Everything at one moment.

        Args:
            now: time.monotonic() seconds.
            networks: what the transports tell at that moment.
        """
        elapsed = max(now - self._began, 1e-9)
        recent = [record for record in self._recent if record.acknowledged >= now - WINDOW_SECONDS]
        speeds = {
            scope: Speed(window=_speed(recent, scope), session=_ratio(work.megapixel_steps, work.busy.seconds))
            for scope, work in self._session.items()
        }
        earned = {
            unit: Earning(total=total, per_hour=total / elapsed * 3600) for unit, total in sorted(self._earned.items())
        }
        return Snapshot(
            session_seconds=elapsed,
            jobs=self._jobs,
            images=self._images,
            megapixel_steps=self._megapixel_steps,
            settled=MappingProxyType({settlement: self._settled[settlement] for settlement in Settlement}),
            earned=MappingProxyType(earned),
            speeds=MappingProxyType(speeds),
            network_speed=_mean(self._network),
            latency=_latency(recent),
            engine_calls=self._calls,
            engine_rows=self._rows,
            queue=self._queue,
            fallbacks=MappingProxyType(dict(self._fallbacks.most_common())),
            networks=tuple(networks),
        )


def _span(record: JobRecord, scope: Scope) -> tuple[float, float] | None:
    """The seconds of a job that count in a scope; None: it did not get that far, or made nothing."""
    if record.images == 0:
        return None
    match scope:
        case Scope.ENGINE:
            start = record.started if record.denoising is None else record.denoising
            end = record.denoised
        case Scope.DEVICE:
            start, end = record.started, record.encoded
        case Scope.GRID:
            start, end = record.received, record.acknowledged
    if start is None or end is None or end <= start:
        return None
    return start, end


def _speed(records: Iterable[JobRecord], scope: Scope) -> float | None:
    busy = _Work(BusyTime())
    for record in records:
        if (span := _span(record, scope)) is not None:
            busy.busy.add(*span)
            busy.megapixel_steps += record.megapixel_steps
    return _ratio(busy.megapixel_steps, busy.busy.seconds)


def _latency(records: Iterable[JobRecord]) -> Latency:
    waiting: list[float] = []
    making: list[float] = []
    handing_in: list[float] = []
    for record in records:
        if record.started is None:
            continue
        waiting.append(record.started - record.received)
        if record.encoded is not None:
            making.append(record.encoded - record.started)
            handing_in.append(record.acknowledged - record.encoded)
    return Latency(waiting=_mean(waiting), making=_mean(making), handing_in=_mean(handing_in))


def _ratio(work: float, seconds: float) -> float | None:
    return work / seconds if seconds > 0 else None


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None
