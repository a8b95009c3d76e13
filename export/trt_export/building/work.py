"""What is to be built of a model, and what stands in the way: known before anything is exported."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from trt_engines.architectures.registry import UnknownArchitecture
from trt_engines.builders.preflight import Machine
from trt_engines.errors import EngineError
from trt_engines.profiles.histogram import read_histogram
from trt_engines.store.store import Store
from trt_export.building.asked import Asked
from trt_export.building.engine import Built, build_engine
from trt_export.building.holdings import holdings
from trt_export.building.located import Located
from trt_export.building.obstacles import obstacles_of
from trt_export.building.order import Order, orders_for
from trt_export.building.source import Source, open_located
from trt_export.checkpoints.checkpoint import Checkpoint
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
from trt_export.child import Tell
from trt_export.plan import Limits, default_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be built of one model."""

    located: Located
    checkpoint: Checkpoint | None  # None: it cannot be opened, and there are no orders
    orders: tuple[Order, ...]  # that nothing known speaks against
    assumption: str | None = None  # what was taken for granted because no file says it
    problems: tuple[str, ...]  # why the rest of it cannot be built, each with what it is about


def work_for(located: Located, asked: Asked, machine: Machine) -> Work:
    """The engines of a model and the problems. Raises: HistogramUnusable."""
    histogram = read_histogram(asked.histogram) if asked.histogram else None
    try:
        source = open_located(located, asked.family)
    except (UnreadableCheckpoint, UnknownArchitecture, EngineError) as exc:
        return Work(located=located, checkpoint=None, orders=(), problems=(f"{located.name}: {exc}",))
    held = holdings(source, asked.components)
    free = machine.disk_bytes if asked.disk_bytes is None else min(asked.disk_bytes, machine.disk_bytes)
    orders, plans = orders_for(
        source,
        asked.targets,
        Limits(disk_bytes=free, host_bytes=machine.memory_bytes, profiles=asked.profiles),
        histogram or default_for(source.architecture),
        held.stored,
        library=asked.library,
        refittable=asked.refittable,
        components=asked.components,
    )
    problems = [f"{located.name} {name}: {text}" for name, text in held.problems.items()]
    problems += [f"{located.name} on {plan.card}: {text}" for plan in plans for text in plan.unserved]
    problems += [f"{located.name}: {text}" for text in _unknown(asked, source)]
    possible = []
    for order in orders:
        if order.module.name in held.problems:
            continue
        if reasons := obstacles_of(order, held.stored[order.module.name], machine):
            problems += [f"{order.label}: {reason}" for reason in reasons]
        else:
            possible.append(order)
    return Work(
        located=located,
        checkpoint=source.checkpoint,
        orders=tuple(possible),
        assumption=source.assumption,
        problems=tuple(dict.fromkeys(problems)),
    )


def _unknown(asked: Asked, source: Source) -> Iterator[str]:
    known = [one.name for one in source.architecture.networks]
    for name in asked.components:
        if name not in known:
            yield f"{source.architecture.name} has no {name!r}; it has {', '.join(known)}"


def build_order(order: Order, work: Work, store: Store, machine: Machine, stop: threading.Event, tell: Tell) -> Built:
    """One engine of a model. Raises: as `build_engine`."""
    if work.checkpoint is None:
        raise ValueError(f"{order.label} is an order for a model that cannot be opened")
    tensors = work.checkpoint.of(order.module.name)
    tables = key_maps(order.architecture, order.module.name)
    return build_engine(order, tensors, tables, store, machine, tell, stop)
