"""What each engine of a command will still take, given what is there already and what the engines before it make."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trt_export.building.progress import Planned
from trt_export.building.work import Work
from trt_export.graphs.cache import GraphCache


def forecast(works: Iterable[Work], graphs: GraphCache) -> tuple[Planned, ...]:
    """An entry for each order of all works, in their order.

    A graph is exported once for all models and cards, and compared with PyTorch once for all cards.
    """
    exported: set[Path] = set()
    certified: set[tuple[Path, Path]] = set()
    planned = []
    for work in works:
        for order in work.orders:
            graph, expected = order.graph(graphs), dict(order.expected)
            if graph in exported or graph.exists():
                expected["export"] = 0.0
            if (work.located.path, graph) in certified:
                expected["certify"] = 0.0
            exported.add(graph)
            certified.add((work.located.path, graph))
            planned.append(Planned(label=order.label, expected=expected))
    return tuple(planned)
