"""One engine to build: a network of a model, its precision and shapes, and the cards it is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trt_engines.bucket import Bucket
from trt_engines.profiles.histogram import Histogram
from trt_engines.profiles.profile import Profile
from trt_engines.store.identity import InputRange
from trt_export.architectures.architecture import Axis, ComponentSpec, Quantity
from trt_export.building.source import Source
from trt_export.plan import BuildPlan, Card, EnginePlan, Limits, make_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One engine to build."""

    model: str
    architecture: str
    component: ComponentSpec
    precision: str
    profiles: tuple[tuple[InputRange, ...], ...]
    buckets: tuple[Bucket, ...]  # the smallest of each profile, then the ones it is made for: what is certified
    compute_capabilities: tuple[int, ...]
    expected_seconds: float  # of the compilation

    @property
    def label(self) -> str:
        """As people read it in the progress: "shapes-tiny denoiser float16 SM86+SM89"."""
        cards = "+".join(f"SM{sm}" for sm in self.compute_capabilities)
        return f"{self.model} {self.component.name} {self.precision} {cards}"


def orders_for(
    source: Source, cards: Sequence[Card], limits: Limits, histogram: Histogram
) -> tuple[tuple[Order, ...], tuple[BuildPlan, ...]]:
    """The engines that serve a histogram of jobs on some cards, one engine for all cards that can share it.

    Returns: the orders, and the plan of each card with what cannot be built on it.
    """
    plans = tuple(make_plan(source.architecture, card, limits, histogram) for card in cards)
    shared: dict[tuple[str, str, tuple[Profile, ...]], list[tuple[int, EnginePlan]]] = {}
    for plan in plans:
        for engine in plan.engines:
            if profiles := engine.profiles.profiles:
                key = (engine.component, engine.precision, profiles)
                shared.setdefault(key, []).append((plan.sm, engine))
    found = []
    for (name, precision, profiles), made in shared.items():
        component = source.architecture.component(name).configured(source.configs[name])
        found.append(
            Order(
                model=source.name,
                architecture=source.architecture.name,
                component=component,
                precision=precision,
                profiles=tuple(input_ranges(component, profile) for profile in profiles),
                buckets=tuple(dict.fromkeys([p.smallest for p in profiles] + [p.best for p in profiles])),
                compute_capabilities=tuple(sorted({sm for sm, _ in made})),
                expected_seconds=made[0][1].build_seconds,
            )
        )
    return tuple(found), plans


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
