"""The engines of a device: loaded when they are needed, closed when others need their room."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from loguru import logger

from trt_engines.backend import Engine, EngineBackend, EngineSpec
from trt_engines.devices.device import Stream
from trt_engines.errors import OutOfMemory
from trt_engines.model import Model
from trt_engines.residency import Footprint, Resident, Taken, beside, make_room, needed, taken, ways
from trt_engines.streaming import StreamsWeights
from trt_worker.plan.placement import SWITCH_SECONDS

FIRST_LOAD_SECONDS = SWITCH_SECONDS / 3
"""Of a network that was never loaded here: its share of what placement guesses for a text encoder, a denoiser and a
decoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Network:
    """What engines share: one network's weights, whatever their buckets are."""

    backend: str
    model: str
    network: str

    def __str__(self) -> str:
        return f"{self.model}/{self.network} on {self.backend}"


@dataclass(slots=True, kw_only=True)
class _Loaded:
    model: Model
    backend: EngineBackend
    engines: dict[EngineSpec, Engine] = field(default_factory=dict)
    footprints: dict[EngineSpec, Footprint] = field(default_factory=dict)  # of the same buckets
    weights: dict[str, Footprint] = field(default_factory=dict)  # of engines, which outlive their buckets
    last_used: float = 0.0

    def add(self, spec: EngineSpec, engine: Engine, footprint: Footprint) -> None:
        self.engines[spec] = engine
        self.footprints[spec] = footprint
        self.weights[footprint.engine] = Footprint(weights=footprint.weights, engine=footprint.engine)

    def without(self, buckets: Collection[EngineSpec] = ()) -> list[Footprint]:
        """What it takes, but for some buckets."""
        return [*self.weights.values(), *(one for spec, one in self.footprints.items() if spec not in buckets)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """One way to load an engine."""

    spec: EngineSpec
    footprint: Footprint
    streamed: int  # bytes of its weights that stay in host memory
    leave: tuple[EngineSpec, ...] = ()  # buckets of the same network that are closed for it
    anew: bool = False  # the network is closed as a whole, engines of other buckets too, and loaded again


class EngineCache:
    """Keeps engines within a budget of memory; the least recently used network leaves first.

    Args:
        budget: bytes that engines and what is reserved may take together.
        in_use: engines that must not be closed now.
        loading, loaded: told what is loaded, before it is, for it may take minutes, and once it is.
        closing: told each engine that is closed, before it is, so that nobody keeps it.
        clock: seconds.
    """

    def __init__(
        self,
        budget: int,
        *,
        in_use: Callable[[], Collection[Engine]],
        loading: Callable[[EngineSpec], None],
        loaded: Callable[[EngineSpec], None],
        closing: Callable[[Engine], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._budget = budget
        self._in_use = in_use
        self._loading = loading
        self._loaded = loaded
        self._closing = closing
        self._clock = clock
        self._networks: dict[_Network, _Loaded] = {}
        self._reserved: dict[object, int] = {}  # bytes, by owner
        self._load_seconds: dict[_Network, float] = {}  # that a network's first engine took the last time

    @property
    def models(self) -> frozenset[str]:
        """Models of which a network is in memory."""
        return frozenset(network.model for network in self._networks)

    @property
    def taken(self) -> int:
        """Bytes that engines and what is reserved take, as far as it is known."""
        return needed(one.taken for one in self._residents(None)) + sum(self._reserved.values())

    @property
    def loaded_before(self) -> frozenset[tuple[str, str]]:
        """Backends and models of which a network was ever loaded."""
        return frozenset((network.backend, network.model) for network in self._load_seconds)

    def usual_load_seconds(self, backend: str, model: str, network: str) -> float:
        """What loading a network took the last time, whether it is in memory or not."""
        return self._load_seconds.get(_Network(backend=backend, model=model, network=network), FIRST_LOAD_SECONDS)

    def holds(self, backend: str, model: str, network: str) -> bool:
        """Whether a network is in memory."""
        return _Network(backend=backend, model=model, network=network) in self._networks

    def load_seconds(self, backend: str, model: str, network: str) -> float:
        """Until a network is in memory: 0 when it is, else what loading it took the last time."""
        return 0.0 if self.holds(backend, model, network) else self.usual_load_seconds(backend, model, network)

    def get(self, backend: EngineBackend, specs: Sequence[EngineSpec], stream: Stream) -> Engine:
        """The engine of the first of some shapes of a network for which there is room.

        When the library itself finds no room, everything idle is closed and it is asked once more.

        Args:
            specs: of one network, the preferred one first.
            stream: where it is to run; the same whenever it is asked for.
        Raises: OutOfMemory: none fits beside the engines in use. EngineFault, StaleEngine: it cannot be loaded.
        """
        network = _Network(backend=backend.name, model=specs[0].model.name, network=specs[0].network)
        known = self._networks.get(network)
        for spec in specs:
            if known is not None and spec in known.engines:
                known.last_used = self._clock()
                return known.engines[spec]
        way = self._make_room(network, backend, specs, stream)
        known = self._networks.get(network)
        self._loading(way.spec)
        began = self._clock()
        try:
            engine = _load(backend, way, stream)
        except OutOfMemory as error:
            freed = self.free_idle(keep=network)
            logger.warning("{}; {} network(s) were closed and it is tried once more.", error, freed)
            engine = _load(backend, way, stream)
        self._loaded(way.spec)
        if known is None:  # else its weights were there already
            self._load_seconds[network] = self._clock() - began
        loaded = self._networks.setdefault(network, _Loaded(model=way.spec.model, backend=backend))
        # Once it is loaded, a backend may know better what it takes; how much of the weights is there was decided.
        told = backend.footprint(way.spec)
        measured = replace(told, weights=way.footprint.weights, streamable=0, lane=stream)
        loaded.add(way.spec, engine, measured)
        loaded.last_used = self._clock()
        return engine

    def reserve(self, owner: object, size: int, label: str) -> None:
        """Keep room for what an owner is about to allocate itself, in place of what it had reserved before.

        Networks that are idle are closed for it.

        Args:
            size: bytes of the device.
            label: name in errors.
        Raises: OutOfMemory: they do not fit beside the engines in use; all is as it was before.
        """
        budget = self._budget - sum(other for one, other in self._reserved.items() if one != owner)
        residents = self._residents(None)
        choice = make_room([Taken(held=size)], residents, budget)
        if choice is None and size > self._reserved.get(owner, 0):
            used = needed(one.taken for one in residents if one.in_use)
            raise OutOfMemory(
                f"{label} takes {_gb(size)} and the engines in use {_gb(used)}, and {_gb(budget)} are there for both; "
                "a smaller max_batch or picture needs less"
            )
        for leaving in choice.leave if choice is not None else ():
            self._close(leaving)
        self._reserved[owner] = size

    def release(self, owner: object) -> None:
        """What was reserved for an owner is free again."""
        self._reserved.pop(owner, None)

    def free_idle(self, *, keep: _Network | None = None) -> int:
        """Close every network that is not in use. Returns: how many were closed."""
        idle = [resident.key for resident in self._residents(keep) if not resident.in_use]
        for network in idle:
            self._close(network)
        return len(idle)

    def _make_room(
        self, network: _Network, backend: EngineBackend, specs: Sequence[EngineSpec], stream: Stream
    ) -> _Way:
        """Decide how an engine is loaded, and close what leaves for it."""
        found = self._ways(network, backend, specs, stream)
        known = self._networks.get(network)
        options = [
            taken([*(known.without(way.leave) if known and not way.anew else ()), way.footprint]) for way in found
        ]
        residents = self._residents(network)
        budget = self._budget - sum(self._reserved.values())
        choice = make_room(options, residents, budget)
        if choice is None:
            used = [resident.taken for resident in residents if resident.in_use]
            least = min(needed([*used, option]) for option in options)
            raise OutOfMemory(
                f"{network} takes {_gb(least)} with the engines in use, and {_gb(budget)} are there for engines; "
                "a smaller max_batch or picture needs less"
            )
        for leaving in choice.leave:
            self._close(leaving)
        way = found[choice.option]
        if known is not None and way.anew:
            self._close(network)
        elif known is not None:
            for bucket in way.leave:
                self._close_bucket(known, bucket)
        if way.spec != specs[0]:
            logger.info("{} is loaded as {}, for want of room.", network, way.spec.bucket.label)
        if way.streamed:
            logger.info("{} streams {} of its weights, for want of room.", network, _gb(way.streamed))
        return way

    def _ways(
        self, network: _Network, backend: EngineBackend, specs: Sequence[EngineSpec], stream: Stream
    ) -> list[_Way]:
        """How an engine of the network can be loaded, the preferred way first.

        What is idle of the network itself is closed before weights are streamed or fewer rows are taken.
        """
        footprints = [replace(backend.footprint(spec), lane=stream) for spec in specs]
        if not isinstance(backend, StreamsWeights):
            footprints = [replace(one, streamable=0) for one in footprints]
        anew = _ways(specs, footprints)
        known = self._networks.get(network)
        if known is None:
            return anew
        beside_others = _ways(specs, [beside(known.without(), one) for one in footprints])
        used = self._used()
        idle = tuple(spec for spec, engine in known.engines.items() if id(engine) not in used)
        found = [*beside_others, *(replace(way, leave=idle) for way in beside_others)]
        if len(idle) == len(known.engines):
            found += [replace(way, anew=True) for way in anew]
        return sorted(found, key=lambda way: (specs.index(way.spec), way.streamed))

    def _residents(self, without: _Network | None) -> list[Resident[_Network]]:
        used = self._used()
        return [
            Resident(
                key=network,
                taken=taken(loaded.without()),
                last_used=loaded.last_used,
                in_use=any(id(engine) in used for engine in loaded.engines.values()),
            )
            for network, loaded in self._networks.items()
            if network != without
        ]

    def _used(self) -> frozenset[int]:
        return frozenset(id(engine) for engine in self._in_use())

    def _close(self, network: _Network) -> None:
        loaded = self._networks[network]
        for spec in tuple(loaded.engines):
            self._close_bucket(loaded, spec)
        del self._networks[network]
        loaded.backend.unload(loaded.model, network.network)
        logger.info("{} was closed to make room.", network)

    def _close_bucket(self, loaded: _Loaded, spec: EngineSpec) -> None:
        engine = loaded.engines.pop(spec)
        del loaded.footprints[spec]
        self._closing(engine)
        engine.close()


def _ways(specs: Sequence[EngineSpec], footprints: Sequence[Footprint]) -> list[_Way]:
    return [
        _Way(spec=specs[index], footprint=footprints[index].streaming(streamed), streamed=streamed)
        for index, streamed in ways(footprints)
    ]


def _load(backend: EngineBackend, way: _Way, stream: Stream) -> Engine:
    if isinstance(backend, StreamsWeights):
        backend.stream_weights(way.spec, way.streamed)
    return backend.load(way.spec, stream)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
