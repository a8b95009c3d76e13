"""One engine to build: a network of a model, its precision and shapes, and the cards it is for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trt_engines.architectures.axis import sizes_of
from trt_engines.architectures.network import Network
from trt_engines.builders.builder import BuildRequest
from trt_engines.builders.preflight import Needs
from trt_engines.cards import builders
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.profiles.cost import plan_file_bytes
from trt_engines.profiles.histogram import Histogram
from trt_engines.profiles.profile import Profile
from trt_engines.store.identity import InputRange
from trt_export.building.compiling import BUILDERS
from trt_export.building.source import Source
from trt_export.estimates import Weights, memory_of, seconds_of
from trt_export.graphs.cache import GraphCache
from trt_export.plan import BuildPlan, Card, EnginePlan, Limits, Stored, make_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One engine to build."""

    model: str
    architecture: str
    module: ModuleSpec
    precision: str
    profiles: tuple[tuple[InputRange, ...], ...]
    weights: Weights
    compute_capabilities: tuple[int, ...]
    library: str
    weight_streaming: bool = False
    refittable: bool = False

    @property
    def label(self) -> str:
        """As people read it in the progress: "shapes-tiny denoiser float16 SM86+SM89"."""
        cards = "+".join(f"SM{sm}" for sm in self.compute_capabilities)
        return f"{self.model} {self.module.name} {self.precision} {cards}"

    @property
    def needs(self) -> Needs:
        """What the build takes of the machine, estimates."""
        count = len(self.profiles)
        return Needs(
            memory_bytes=memory_of(self.weights, count), disk_bytes=plan_file_bytes(self.weights.engine_bytes, count)
        )

    @property
    def expected(self) -> Mapping[str, float]:
        """Seconds of each phase of a build from nothing, estimates."""
        return seconds_of(self.module.network, self.weights, len(self.profiles))

    def graph(self, cache: GraphCache) -> Path:
        """Where the cache keeps its weightless graph, whether or not it is there."""
        return cache.path(f"{self.architecture}/{self.module.name}", self.module.config, self.precision)

    def request(self, graph: Path, precision: str | None = None) -> BuildRequest:
        """What the builder is asked.

        Args:
            graph: bound to the weights; it need not be there yet.
            precision: of the weights, where it is not the one that was planned.
        """
        return BuildRequest(
            graph=graph,
            precision=precision or self.precision,
            profiles=self.profiles,
            compute_capabilities=self.compute_capabilities,
            refittable=self.refittable,
            weight_streaming=self.weight_streaming,
            batch_independent=len(self.profiles) == 1,  # TensorRT-RTX refuses it with several
        )


def orders_for(
    source: Source,
    cards: Sequence[Card],
    limits: Limits,
    histogram: Histogram,
    stored: Stored,
    *,
    library: str | None = None,
    refittable: bool = False,
    components: Collection[str] = (),
) -> tuple[tuple[Order, ...], tuple[BuildPlan, ...]]:
    """The engines that serve a histogram of jobs on some cards, one engine for all cards that can share it.

    Args:
        stored: what the model's files hold of its networks.
        library: that builds; the preferred one of each card without it.
        components: to build, by name; all without any.

    Returns: the orders, and the plan of each card with what cannot be built on it.
    """
    plans = tuple(make_plan(source.architecture, card, limits, histogram, stored) for card in cards)
    shared: dict[_Key, list[int]] = {}
    for plan in plans:
        for engine in plan.engines:
            if engine.profiles.profiles and (not components or engine.component in components):
                shared.setdefault(_key(engine, plan.sm, library), []).append(plan.sm)
    return tuple(_order(source, key, capabilities, refittable) for key, capabilities in shared.items()), plans


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """What cards must have in common to share an engine."""

    component: str
    precision: str
    weights: Weights
    profiles: tuple[Profile, ...]
    weight_streaming: bool
    library: str
    alone: int | None  # the compute capability, where the library builds for no other along with it


def _key(engine: EnginePlan, sm: int, library: str | None) -> _Key:
    library = library or next(iter(builders(sm)), "tensorrt-rtx")
    return _Key(
        component=engine.component,
        precision=engine.precision,
        weights=engine.weights,
        profiles=engine.profiles.profiles,
        weight_streaming=engine.streamed_bytes > 0,
        library=library,
        alone=None if BUILDERS[library].ahead_of_time else sm,
    )


def _order(source: Source, key: _Key, capabilities: Sequence[int], refittable: bool) -> Order:
    module = source.modules[key.component]
    return Order(
        model=source.name,
        architecture=source.architecture.name,
        module=module,
        precision=key.precision,
        weights=key.weights,
        profiles=tuple(input_ranges(module.network, profile) for profile in key.profiles),
        compute_capabilities=tuple(sorted(set(capabilities))),
        library=key.library,
        weight_streaming=key.weight_streaming,
        refittable=refittable,
    )


def input_ranges(network: Network, profile: Profile) -> tuple[InputRange, ...]:
    """A profile as the shapes of a network's dynamic inputs."""
    low, best, high = (sizes_of(bucket) for bucket in (profile.smallest, profile.best, profile.largest))
    return tuple(
        InputRange(name=tensor.name, min=tensor.at(low), opt=tensor.at(best), max=tensor.at(high))
        for tensor in network.inputs
        if tensor.axes
    )
