"""The engines of a device: loaded when they are needed, closed when others need their room."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from time import monotonic

from loguru import logger

from trt_engines.backend import Engine, EngineBackend, EngineSpec
from trt_engines.errors import OutOfMemory
from trt_engines.model import Component, Model
from trt_engines.residency import Footprint, Resident, make_room, needed
from trt_worker.plan.placement import SWITCH_SECONDS

FIRST_LOAD_SECONDS = SWITCH_SECONDS / 3
"""Of a network that was never loaded here: its share of what placement guesses for a text encoder, a denoiser and a
decoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Network:
    """What engines share: one network's weights, whatever their buckets are."""

    backend: str
    model: str
    component: Component

    def __str__(self) -> str:
        return f"{self.model}/{self.component.value} on {self.backend}"


@dataclass(slots=True, kw_only=True)
class _Loaded:
    model: Model
    backend: EngineBackend
    weights: int
    engines: dict[EngineSpec, Engine] = field(default_factory=dict)
    activations: int = 0
    last_used: float = 0.0


class EngineCache:
    """Keeps engines within a budget of memory; the least recently used network leaves first.

    Args:
        budget: bytes that engines may take together.
        in_use: engines that must not be closed now.
        loading, loaded: told what is loaded, before it is, for it may take minutes, and once it is.
        closed: told each engine that was closed, so that nobody keeps it.
        clock: seconds.
    """

    def __init__(
        self,
        budget: int,
        *,
        in_use: Callable[[], Collection[Engine]],
        loading: Callable[[EngineSpec], None],
        loaded: Callable[[EngineSpec], None],
        closed: Callable[[Engine], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._budget = budget
        self._in_use = in_use
        self._loading = loading
        self._loaded = loaded
        self._closed = closed
        self._clock = clock
        self._networks: dict[_Network, _Loaded] = {}
        self._load_seconds: dict[_Network, float] = {}  # that a network's first engine took the last time

    @property
    def models(self) -> frozenset[str]:
        """Models of which a network is in memory."""
        return frozenset(network.model for network in self._networks)

    @property
    def loaded_before(self) -> frozenset[tuple[str, str]]:
        """Backends and models of which a network was ever loaded."""
        return frozenset((network.backend, network.model) for network in self._load_seconds)

    def usual_load_seconds(self, backend: str, model: str, component: Component) -> float:
        """What loading a network took the last time, whether it is in memory or not."""
        network = _Network(backend=backend, model=model, component=component)
        return self._load_seconds.get(network, FIRST_LOAD_SECONDS)

    def load_seconds(self, backend: str, model: str, component: Component) -> float:
        """Until a network is in memory: 0 when it is, else what loading it took the last time."""
        network = _Network(backend=backend, model=model, component=component)
        return 0.0 if network in self._networks else self.usual_load_seconds(backend, model, component)

    def get(self, backend: EngineBackend, specs: Sequence[EngineSpec]) -> Engine:
        """The engine of the first of some shapes of a network for which there is room.

        When the library itself finds no room, everything idle is closed and it is asked once more.

        Args:
            specs: of one network, the preferred one first.
        Raises: OutOfMemory: none fits beside the engines in use. EngineFault, StaleEngine: it cannot be loaded.
        """
        network = _Network(backend=backend.name, model=specs[0].model.name, component=specs[0].component)
        known = self._networks.get(network)
        for spec in specs:
            if known is not None and spec in known.engines:
                known.last_used = self._clock()
                return known.engines[spec]
        spec, footprint = self._make_room(network, backend, specs)
        self._loading(spec)
        began = self._clock()
        try:
            engine = backend.load(spec)
        except OutOfMemory as error:
            freed = self.free_idle(keep=network)
            logger.warning("{}; {} network(s) were closed and it is tried once more.", error, freed)
            engine = backend.load(spec)
        self._loaded(spec)
        if known is None:  # else its weights were there already
            self._load_seconds[network] = self._clock() - began
        loaded = self._networks.setdefault(
            network, _Loaded(model=spec.model, backend=backend, weights=footprint.weights)
        )
        loaded.engines[spec] = engine
        loaded.activations = max(loaded.activations, footprint.activations)
        loaded.last_used = self._clock()
        return engine

    def free_idle(self, *, keep: _Network | None = None) -> int:
        """Close every network that is not in use. Returns: how many were closed."""
        idle = [resident.key for resident in self._residents(keep) if not resident.in_use]
        for network in idle:
            self._close(network)
        return len(idle)

    def _make_room(
        self, network: _Network, backend: EngineBackend, specs: Sequence[EngineSpec]
    ) -> tuple[EngineSpec, Footprint]:
        known = self._networks.get(network)
        options = [backend.footprint(spec) for spec in specs]
        if known is not None:
            options = [
                Footprint(weights=known.weights, activations=max(known.activations, one.activations)) for one in options
            ]
        residents = self._residents(network)
        choice = make_room(options, residents, self._budget)
        if choice is None:
            used = [resident.footprint for resident in residents if resident.in_use]
            raise OutOfMemory(
                f"{network} takes {_gb(needed([*used, options[-1]]))} with the engines in use, and "
                f"{_gb(self._budget)} are there for engines; a smaller max_batch or picture needs less"
            )
        for leaving in choice.leave:
            self._close(leaving)
        if choice.option:
            logger.info("{} is loaded as {}, for want of room.", network, specs[choice.option].bucket.label)
        return specs[choice.option], options[choice.option]

    def _residents(self, without: _Network | None) -> list[Resident[_Network]]:
        used = {id(engine) for engine in self._in_use()}
        return [
            Resident(
                key=network,
                footprint=Footprint(weights=loaded.weights, activations=loaded.activations),
                last_used=loaded.last_used,
                in_use=any(id(engine) in used for engine in loaded.engines.values()),
            )
            for network, loaded in self._networks.items()
            if network != without
        ]

    def _close(self, network: _Network) -> None:
        loaded = self._networks.pop(network)
        for engine in loaded.engines.values():
            engine.close()
            self._closed(engine)
        loaded.backend.unload(loaded.model, network.component)
        logger.info("{} was closed to make room.", network)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
