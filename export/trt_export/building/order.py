"""One engine to build: a network of a model, its precision and shapes, and the cards it is for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trt_engines.bucket import Bucket
from trt_engines.builders.builder import BuildRequest
from trt_engines.builders.footprint import build_memory, build_seconds
from trt_engines.cards import builders
from trt_engines.profiles.cost import plan_file_bytes
from trt_engines.profiles.histogram import Histogram
from trt_engines.profiles.profile import Profile
from trt_engines.store.identity import InputRange
from trt_export.architectures.architecture import Axis, ComponentSpec, Quantity
from trt_export.building.compiling import BUILDERS
from trt_export.building.source import Source
from trt_export.plan import BYTES, BuildPlan, Card, EnginePlan, Limits, make_plan

START_SECONDS = 8.0
"""Estimate: a process that imports PyTorch and diffusers."""

EXPORT_SECONDS_PER_PARAMETER = 4e-8
"""Estimate: time to trace and fold a network, which follows its layers more than their size."""

BYTES_PER_SECOND = 1e9
"""Estimate: weights that are hashed in a second."""

CERTIFIED_FLOPS = 12e12
"""Most of one certificate without a card: some minutes on two cores. The first bucket is computed whatever it takes."""

FLOPS_PER_SECOND = 2e10
"""Estimate: of ONNX Runtime and PyTorch on two cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One engine to build."""

    model: str
    architecture: str
    component: ComponentSpec
    precision: str
    profiles: tuple[tuple[InputRange, ...], ...]
    buckets: tuple[Bucket, ...]  # the smallest of each profile, then the ones it is made for
    compute_capabilities: tuple[int, ...]
    library: str
    weight_streaming: bool = False
    refittable: bool = False

    @property
    def label(self) -> str:
        """As people read it in the progress: "shapes-tiny denoiser float16 SM86+SM89"."""
        cards = "+".join(f"SM{sm}" for sm in self.compute_capabilities)
        return f"{self.model} {self.component.name} {self.precision} {cards}"

    @property
    def weight_bytes(self) -> int:
        """Of its weights, as the builder reads them: an estimate until they are bound."""
        return self.component.parameters * BYTES[self.precision]

    @property
    def build_bytes(self) -> int:
        """Peak memory of the build, an estimate."""
        return build_memory(self.weight_bytes, len(self.profiles))

    @property
    def plan_bytes(self) -> int:
        """Size of the engine, an estimate."""
        return plan_file_bytes(self.weight_bytes, len(self.profiles))

    @property
    def certified(self) -> tuple[Bucket, ...]:
        """The buckets that its certificate covers: the first, and those that follow within CERTIFIED_FLOPS in all."""
        chosen: list[Bucket] = []
        spent = 0.0
        for bucket in self.buckets:
            flops = self._flops(bucket)
            if not chosen or spent + flops <= CERTIFIED_FLOPS:
                spent += flops
                chosen.append(bucket)
        return tuple(chosen)

    @property
    def expected(self) -> Mapping[str, float]:
        """Seconds of each phase, estimates."""
        flops = sum(map(self._flops, self.certified))
        return {
            "export": START_SECONDS + EXPORT_SECONDS_PER_PARAMETER * self.component.parameters,
            "bind": self.weight_bytes / BYTES_PER_SECOND,
            "parse": 1.0 + self.weight_bytes / BYTES_PER_SECOND,
            "build": build_seconds(self.weight_bytes, len(self.profiles)),
            "certify": START_SECONDS + 2 * flops / FLOPS_PER_SECOND,
        }

    def _flops(self, bucket: Bucket) -> float:
        row = self.component.cost.flops(width=bucket.width, height=bucket.height, tokens=bucket.tokens)
        return bucket.rows * row

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
    *,
    library: str | None = None,
    refittable: bool = False,
    components: Collection[str] = (),
) -> tuple[tuple[Order, ...], tuple[BuildPlan, ...]]:
    """The engines that serve a histogram of jobs on some cards, one engine for all cards that can share it.

    Args:
        library: that builds; the preferred one of each card without it.
        components: to build, by name; all without any.

    Returns: the orders, and the plan of each card with what cannot be built on it.
    """
    plans = tuple(make_plan(source.architecture, card, limits, histogram) for card in cards)
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
    profiles: tuple[Profile, ...]
    weight_streaming: bool
    library: str
    alone: int | None  # the compute capability, where the library builds for no other along with it


def _key(engine: EnginePlan, sm: int, library: str | None) -> _Key:
    library = library or next(iter(builders(sm)), "tensorrt-rtx")
    return _Key(
        component=engine.component,
        precision=engine.precision,
        profiles=engine.profiles.profiles,
        weight_streaming=engine.streamed_bytes > 0,
        library=library,
        alone=None if BUILDERS[library].ahead_of_time else sm,
    )


def _order(source: Source, key: _Key, capabilities: Sequence[int], refittable: bool) -> Order:
    component = source.architecture.component(key.component)
    return Order(
        model=source.name,
        architecture=source.architecture.name,
        component=component,
        precision=key.precision,
        profiles=tuple(input_ranges(component, profile) for profile in key.profiles),
        buckets=tuple(dict.fromkeys([p.smallest for p in key.profiles] + [p.best for p in key.profiles])),
        compute_capabilities=tuple(sorted(set(capabilities))),
        library=key.library,
        weight_streaming=key.weight_streaming,
        refittable=refittable,
    )


def input_ranges(component: ComponentSpec, profile: Profile) -> tuple[InputRange, ...]:
    """A profile as the shapes of a network's dynamic inputs."""
    low, best, high = (sizes_of(bucket) for bucket in (profile.smallest, profile.best, profile.largest))
    return tuple(
        InputRange(name=tensor.name, min=tensor.at(low), opt=tensor.at(best), max=tensor.at(high))
        for tensor in component.inputs
        if any(isinstance(part, Axis) for part in tensor.shape)
    )


def sizes_of(bucket: Bucket) -> dict[Quantity, int]:
    """A bucket as what axes follow."""
    return {
        Quantity.ROWS: bucket.rows,
        Quantity.WIDTH: bucket.width,
        Quantity.HEIGHT: bucket.height,
        Quantity.TOKENS: bucket.tokens,
    }
