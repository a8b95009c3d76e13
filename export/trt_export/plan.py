"""What building a model for a card would give, before anything is built: engines, sizes, times, memory, what fits."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.axis import Quantity
from trt_engines.architectures.network import Network, Role
from trt_engines.profiles.cost import Budgets, NetworkCost
from trt_engines.profiles.defaults import default_histogram
from trt_engines.profiles.histogram import Demand, Histogram
from trt_engines.profiles.planner import ProfilePlan, evaluate, plan_profiles
from trt_engines.tiles import buckets_whole_or_tile
from trt_export.checkpoints.binding import StoredWeights
from trt_export.estimates import (
    BYTES,
    COMMAND_SECONDS,
    FLOAT8,
    Weights,
    first_of,
    memory_of,
    seconds_of,
    seconds_together,
    weights_of,
)

Stored = Mapping[str, StoredWeights]
"""What a model's files hold of its networks, by name."""

CONTEXT_BYTES = 500_000_000
"""Estimate: what the driver's context and the loaded kernels take of a card."""

SPARE = 0.05
"""Estimate: share of a card's memory that is left alone, for a display and for fragmentation."""

ENOUGH = 0.9
"""Share of jobs that a way to lay out the memory must serve to be chosen before one that costs time."""


MINOR_PROFILES = 2
"""Most profiles of a text encoder, or of an image encoder or decoder, which takes what is too large in tiles."""

MINOR_GAIN = 0.05
"""Share of its own work that a further profile of such a network must save: it is a few percent of a job's work."""


class Card(Protocol):
    """What a plan must know of a card."""

    @property
    def name(self) -> str:
        """As people write it: "RTX 3060"."""

    @property
    def sm(self) -> int:
        """Compute capability times ten: 86."""

    @property
    def memory_bytes(self) -> int:
        """Memory of the card."""

    @property
    def precisions(self) -> frozenset[str]:
        """Types that engines can compute in: keys of `estimates.BYTES` among them."""

    @property
    def tensor_cores(self) -> bool:
        """Whether it has any."""

    @property
    def unsupported(self) -> str | None:
        """Why no engine can be built for it; None: one can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the machine that builds has, and how many profiles an engine may get."""

    disk_bytes: int  # free where engines are kept
    host_bytes: int  # memory for the build
    profiles: int = 6
    jobs: int = 1  # engines that are built at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """One engine to build."""

    component: str
    role: Role
    precision: str
    weights: Weights
    streamed_bytes: int  # of the weights, kept in host memory
    profiles: ProfilePlan
    seconds: Mapping[str, float]  # of each phase of the build
    build_bytes: int  # peak memory of the build
    tiles: Mapping[tuple[int, int], float]  # share of jobs by width and height of their tiles

    @property
    def covered_jobs(self) -> float:
        """Share of jobs that it serves, whole or in tiles."""
        return min(1.0, self.profiles.covered_jobs + sum(self.tiles.values()))

    @property
    def weight_bytes(self) -> int:
        """Of the engine's weights."""
        return self.weights.engine_bytes

    @property
    def build_seconds(self) -> float:
        """All phases."""
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """What else would do, and how many jobs the denoiser would serve then."""

    what: str
    covered_jobs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """What building one architecture for one card gives; everything is an estimate."""

    architecture: str
    title: str
    card: str
    sm: int
    memory_bytes: int
    usable_bytes: int  # of the card
    layout: str  # which networks stay on the card
    engines: tuple[EnginePlan, ...]
    vram_bytes: int  # most at one time: weights on the card and the largest context
    disk_bytes: int
    build_seconds: float  # from the command to its end: all phases of all engines
    build_bytes: int  # largest of the builds
    unserved: tuple[str, ...]  # why the card cannot run something
    unbuildable: tuple[str, ...]  # why this machine cannot build something
    alternatives: tuple[Alternative, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """All that stands in the way."""
        return (*self.unserved, *self.unbuildable)

    def engine(self, component: str) -> EnginePlan | None:
        """The engine of a component; None: it cannot be built."""
        return next((engine for engine in self.engines if engine.component == component), None)

    @property
    def denoisers(self) -> tuple[EnginePlan, ...]:
        """The engines that nearly all of the time is spent in."""
        return tuple(engine for engine in self.engines if engine.role is Role.DENOISER)

    @property
    def denoiser(self) -> EnginePlan | None:
        """The denoiser that serves the fewest jobs, the first of equals; None: none can be built."""
        return min(self.denoisers, key=lambda engine: engine.profiles.covered_jobs, default=None)


@dataclass(frozen=True, slots=True)
class _Layout:
    """A way to share a card between the networks of a model."""

    name: str
    text_leaves: bool
    alone: bool  # each network has the card to itself
    streams: bool = False

    def resident(self, name: str, roles: Mapping[str, Role]) -> Set[str]:
        """The networks on the card while one of them runs, itself included.

        Args: roles: of all networks.
        """
        if self.alone:
            return {name}
        if not self.text_leaves:
            return roles.keys()
        reads = roles[name] is Role.TEXT_ENCODER
        return {other for other, role in roles.items() if (role is Role.TEXT_ENCODER) is reads}


_LAYOUTS = (
    _Layout("all networks stay on the card", text_leaves=False, alone=False),
    _Layout("text encoders leave the card once a prompt is encoded", text_leaves=True, alone=False),
    _Layout("one network on the card at a time", text_leaves=True, alone=True),
    _Layout("one network at a time, what does not fit of it streamed from host memory", True, True, True),
)


def make_plan(
    architecture: Architecture,
    card: Card,
    limits: Limits,
    histogram: Histogram,
    stored: Stored = MappingProxyType({}),
) -> BuildPlan:
    """The engines that serve a histogram of jobs best on a card, within what the building machine has.

    The memory is laid out in the fastest way under which nearly all jobs are served.

    Args:
        histogram: rows are those of the denoiser, guidance included.
        stored: what the model's files hold; a network that is not among them is taken to be stored as it is computed.
    """
    usable = int(card.memory_bytes * (1 - SPARE)) - CONTEXT_BYTES
    chosen = {one.name: precision_of(one, card) for one in architecture.networks}
    unserved = [card.unsupported] if card.unsupported else []
    unserved += [
        f"{name}: none of {', '.join(architecture.network(name).precisions)} runs on SM{card.sm}; "
        "the PyTorch fallback serves it"
        for name, precision in chosen.items()
        if precision is None and not card.unsupported
    ]
    precisions = {name: precision for name, precision in chosen.items() if precision is not None}
    for name in [name for name in precisions if FLOAT8 in _types(stored, name) and "float8" not in card.precisions]:
        unserved.append(
            f"{name}: SM{card.sm} cannot compute in float8, which its weights are stored in; take the model's bf16 or "
            "fp16 file, or leave it to the PyTorch fallback"
        )
        del precisions[name]
    tried = []
    for layout in _LAYOUTS:
        engines = _engines(architecture, layout, usable, limits, histogram, precisions, stored)
        tried.append((layout, engines, _covered(engines)))
        if tried[-1][2] >= ENOUGH:
            break
    # The first of equals; where none serves anything, the last, which asks for least.
    layout, engines, covered = max(tried, key=lambda one: one[2]) if any(share for *_, share in tried) else tried[-1]
    alternatives = []
    if covered < 1 and layout is tried[-1][0] and layout is not _LAYOUTS[-1]:
        for other in _LAYOUTS[_LAYOUTS.index(layout) + 1 :]:
            share = _covered(
                _engines(architecture, other, usable, limits, histogram, precisions, stored, denoisers_only=True)
            )
            if share > covered:
                alternatives.append(Alternative(what=other.name, covered_jobs=share))
    if covered < 1 or layout is not _LAYOUTS[0]:
        alternatives += _smaller_weights(
            architecture, card, usable, limits, histogram, precisions, layout, covered, stored
        )
    if covered < 1:
        alternatives.append(
            Alternative(what="leave the rest to the PyTorch fallback, at about half the rate", covered_jobs=1.0)
        )
    return BuildPlan(
        architecture=architecture.name,
        title=architecture.title,
        card=card.name,
        sm=card.sm,
        memory_bytes=card.memory_bytes,
        usable_bytes=usable,
        layout=layout.name,
        engines=engines,
        vram_bytes=_vram(layout, engines),
        disk_bytes=sum(engine.profiles.disk_bytes for engine in engines),
        build_seconds=_whole_build(engines, limits.jobs),
        build_bytes=max((engine.build_bytes for engine in engines), default=0),
        unserved=(*unserved, *_unserved(engines)),
        unbuildable=tuple(_unbuildable(engines, limits)),
        alternatives=tuple(alternatives),
    )


def precision_of(network: Network, card: Card) -> str | None:
    """The best type of a network that the card computes in; None: there is none.

    Cards without tensor cores (GTX 16) compute in float32 where they can: half precision gives NaN pictures on them
    (PyTorch issue 58123) and was no faster (TensorRT issue 892).
    """
    if not card.tensor_cores and "float32" in network.precisions and "float32" in card.precisions:
        return "float32"
    return next((name for name in network.precisions if name in card.precisions), None)


def network_histogram(network: Network, architecture: Architecture, histogram: Histogram) -> Histogram:
    """The histogram in the rows that a network runs.

    A text encoder sees the prompts of a job once, however many images it has, and a long text as rows of its own where
    its length is fixed. Images are encoded and decoded one by one: their activations are the largest of all, and what a
    batch would save is small at their sizes.
    """
    if network.role is Role.AUTOENCODER:
        return Histogram.of(replace(one, rows=1) for one in histogram.demands)
    if network.role is Role.DENOISER:
        share = architecture.rows // architecture.pass_of(network.name).guidance.rows
        return Histogram.of(replace(one, rows=-(-one.rows // share)) for one in histogram.demands)
    length = _chunk(network, architecture)
    return Histogram.of(
        replace(one, rows=min(one.rows, architecture.rows) * (-(-one.tokens // length) if length else 1))
        for one in histogram.demands
    )


def network_cost(
    network: Network, architecture: Architecture, precision: str, weights: Weights | None = None
) -> NetworkCost:
    """What the planner must know of a network at a precision; its weights are all of that type unless given."""
    cost, scale = network.cost, BYTES[precision] / 2 if precision != "float8" else 1.0

    def flops(*, width: int, height: int, tokens: int) -> float:
        return max(cost.flops(width=width, height=height, tokens=tokens), 1.0)

    def activation_bytes(*, width: int, height: int, tokens: int) -> float:
        return scale * cost.activation_bytes(width=width, height=height, tokens=tokens)

    sizes = [axis.step for axis in network.axes if axis.quantity in (Quantity.WIDTH, Quantity.HEIGHT)]
    return NetworkCost(
        flops=flops,
        activation_bytes=activation_bytes,
        weight_bytes=(weights or weights_of(network, precision)).engine_bytes,
        sees_size=bool(sizes),
        sees_tokens=network.sees(Quantity.TOKENS),
        size_multiple=math.lcm(*sizes) if sizes else 1,
        token_multiple=math.gcd(*architecture.tokens),
    )


def _engines(
    architecture: Architecture,
    layout: _Layout,
    usable: int,
    limits: Limits,
    histogram: Histogram,
    precisions: dict[str, str],
    stored: Stored,
    *,
    denoisers_only: bool = False,
) -> tuple[EnginePlan, ...]:
    """An engine for each network that has a precision, as planned under one layout."""
    parts = [one for one in architecture.networks if one.name in precisions]
    weights = {one.name: weights_of(one, precisions[one.name], stored.get(one.name)) for one in parts}
    roles = {one.name: one.role for one in parts}
    disk, engines = limits.disk_bytes, []
    for network in parts:
        name = network.name
        if denoisers_only and network.role is not Role.DENOISER:
            continue
        others = sum(weights[other].engine_bytes for other in layout.resident(name, roles) - {name})
        cost = network_cost(network, architecture, precisions[name], weights[name])
        demands = network_histogram(network, architecture, histogram)
        vram = max(0, usable - others)
        if layout.streams and network.role is not Role.AUTOENCODER:  # which works on a picture in tiles instead
            cost = replace(cost, streamed_bytes=_streamed(cost, demands, vram))
        budgets = Budgets(vram_bytes=vram, disk_bytes=disk, profiles=limits.profiles)
        if network.role is not Role.DENOISER:
            budgets = replace(budgets, profiles=min(budgets.profiles, MINOR_PROFILES), least_gain=MINOR_GAIN)
        tiles: Mapping[tuple[int, int], float] = {}
        if network.role is Role.AUTOENCODER:
            built_for = _whole_or_tiles(demands, vram - cost.resident_bytes, cost, architecture.size_step)
            profiles = evaluate(plan_profiles(built_for, budgets, cost).profiles, demands, budgets, cost)
            tiles = _tiles(profiles, architecture.size_step)
        else:
            profiles = plan_profiles(demands, budgets, cost)
        engine = _engine(network, precisions[name], weights[name], cost.streamed_bytes, profiles, tiles)
        disk -= engine.profiles.disk_bytes
        engines.append(engine)
    return tuple(engines)


def _whole_or_tiles(demands: Histogram, room: int, cost: NetworkCost, step: int) -> Histogram:
    """What an autoencoder is built for: pictures whose activations find room, and of others the largest tiles that do.

    Args: room: bytes. step: pixels, as of `buckets_whole_or_tile`.
    """

    def fitting(demand: Demand) -> Demand:
        for bucket in buckets_whole_or_tile(demand.width, demand.height, step):
            if cost.activation_bytes(width=bucket.width, height=bucket.height, tokens=demand.tokens) <= room:
                return replace(demand, width=bucket.width, height=bucket.height)
        return demand

    return Histogram.of(fitting(one) for one in demands.demands)


def _tiles(profiles: ProfilePlan, step: int) -> dict[tuple[int, int], float]:
    """What an autoencoder's profiles take in tiles, as the worker does: share of jobs by width and height of a tile."""
    shares: defaultdict[tuple[int, int], float] = defaultdict(float)
    for left in profiles.uncovered:
        demand = left.demand
        for bucket in buckets_whole_or_tile(demand.width, demand.height, step)[1:]:
            if any(one.covers(replace(bucket, tokens=demand.tokens)) for one in profiles.profiles):
                shares[bucket.width, bucket.height] += demand.weight
                break
    return dict(shares)


def _engine(
    network: Network,
    precision: str,
    weights: Weights,
    streamed: int,
    profiles: ProfilePlan,
    tiles: Mapping[tuple[int, int], float],
) -> EnginePlan:
    count = len(profiles.profiles)
    return EnginePlan(
        component=network.name,
        role=network.role,
        precision=precision,
        weights=weights,
        streamed_bytes=streamed,
        profiles=profiles,
        seconds=seconds_of(network, weights, count),
        build_bytes=memory_of(weights, count),
        tiles=tiles,
    )


def _whole_build(engines: Sequence[EnginePlan], jobs: int) -> float:
    """Seconds from the command to its end."""
    seconds = [engine.build_seconds for engine in engines if engine.profiles.profiles]
    return COMMAND_SECONDS + seconds_together({}, range(len(seconds)), seconds, first_of(jobs)) if seconds else 0.0


def _types(stored: Stored, name: str) -> Set[str]:
    return stored[name].types if name in stored else frozenset()


def _streamed(cost: NetworkCost, histogram: Histogram, room: int) -> int:
    """Weights that must stay in host memory for one row of every demanded size to fit."""
    need = max(cost.activation_bytes(width=d.width, height=d.height, tokens=d.tokens) for d in histogram.demands)
    return min(max(0, cost.weight_bytes + math.ceil(need) - room), cost.weight_bytes)


def _covered(engines: tuple[EnginePlan, ...]) -> float:
    """Share of jobs that run on engines throughout.

    Without a denoiser that is none. Text encoders are short of nothing but room for any profile at all.
    """
    shares = [
        float(bool(engine.profiles.profiles)) if engine.role is Role.TEXT_ENCODER else engine.covered_jobs
        for engine in engines
    ]
    return min(shares) if any(engine.role is Role.DENOISER for engine in engines) else 0.0


def _smaller_weights(
    architecture: Architecture,
    card: Card,
    usable: int,
    limits: Limits,
    histogram: Histogram,
    precisions: dict[str, str],
    chosen: _Layout,
    covered: float,
    stored: Stored,
) -> list[Alternative]:
    """The fastest layout that a denoiser in float8 allows, where it is faster than the chosen one or serves more."""
    names = {one.name for one in architecture.denoisers if one.name in precisions}
    if "float8" not in card.precisions or all(FLOAT8 in _types(stored, name) for name in names):
        return []
    smaller = precisions | dict.fromkeys(names, "float8")
    others = {name: one for name, one in stored.items() if name not in names}
    for layout in _LAYOUTS[: _LAYOUTS.index(chosen) + 1]:
        share = _covered(_engines(architecture, layout, usable, limits, histogram, smaller, others))
        if share > covered or (share >= ENOUGH and layout is not chosen):
            return [Alternative(what=f"take the model's float8 (e4m3) file; then {layout.name}", covered_jobs=share)]
    return []


def _vram(layout: _Layout, engines: tuple[EnginePlan, ...]) -> int:
    """Most that is on the card at one time; contexts run one after the other and share their memory."""
    built = {engine.component: engine for engine in engines if engine.profiles.profiles}
    roles = {name: engine.role for name, engine in built.items()}
    most = 0
    for name, engine in built.items():
        beside = [built[other] for other in layout.resident(name, roles)]
        weights = sum(other.weight_bytes - other.streamed_bytes for other in beside)
        most = max(most, weights + engine.profiles.activation_bytes)
    return most


def _unserved(engines: Iterable[EnginePlan]) -> Iterator[str]:
    for engine in engines:
        if not engine.profiles.profiles:
            yield f"{engine.component}: {engine.profiles.uncovered[0].reason}"


def _unbuildable(engines: Iterable[EnginePlan], limits: Limits) -> Iterator[str]:
    for engine in engines:
        if engine.build_bytes > limits.host_bytes:
            yield (
                f"{engine.component}: building it takes about {engine.build_bytes / 1e9:.1f} GB of memory and "
                f"{limits.host_bytes / 1e9:.1f} GB are there; build it on a larger machine and import the archive "
                "(trt-worker engines import)"
            )


def _chunk(network: Network, architecture: Architecture) -> int | None:
    """Text tokens of one row where long texts are cut into rows of a fixed length; None: a text is one row."""
    shape = network.inputs[0].shape
    length = shape[1] if len(shape) > 1 else None
    if not isinstance(length, int) or any(tokens % length for tokens in architecture.tokens):
        return None
    return length


def default_for(family: Architecture) -> Histogram:
    """The default histogram of an architecture."""
    return default_histogram(
        native_pixels=family.native_side**2,
        tokens=family.tokens,
        guidance_rows=family.rows,
        size_step=family.size_step,
    )


def heaviest(histogram: Histogram, count: int) -> list[Demand]:
    """The most frequent demands, the most frequent one first."""
    return sorted(histogram.demands, key=lambda demand: (-demand.weight, demand.shape))[:count]
