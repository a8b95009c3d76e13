"""What engines still take, by what is there and by what the engines before them make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trt_engines.modules.registry import module_of
from trt_export.building.forecast import forecast
from trt_export.building.located import Located
from trt_export.building.order import Order
from trt_export.building.work import Work
from trt_export.estimates import weights_of
from trt_export.graphs.cache import GraphCache


def an_order(*cards: int) -> Order:
    spec = module_of("stable_diffusion_1", "vae_decoder")
    return Order(
        model="model",
        architecture="stable_diffusion_1",
        module=spec,
        precision="float16",
        profiles=((),),
        weights=weights_of(spec.network, "float16"),
        compute_capabilities=cards,
        library="tensorrt-rtx",
    )


def a_work(name: str, orders: Sequence[Order]) -> Work:
    located = Located(name=name, path=Path(name))
    return Work(located=located, checkpoint=None, orders=tuple(orders), problems=())


def takes(works: Sequence[Work], folder: Path) -> list[set[str]]:
    """The phases that take time, of each engine."""
    return [
        {phase for phase, seconds in one.expected.items() if seconds} for one in forecast(works, GraphCache(folder))
    ]


ALL = {"export", "bind", "parse", "build", "certify"}


def test_a_second_card_of_a_model_exports_and_certifies_nothing(tmp_path: Path) -> None:
    assert takes([a_work("one", [an_order(86), an_order(120)])], tmp_path) == [ALL, ALL - {"export", "certify"}]


def test_a_second_model_of_a_family_is_certified_with_its_own_weights(tmp_path: Path) -> None:
    works = [a_work("one", [an_order(86)]), a_work("other", [an_order(86)])]

    assert takes(works, tmp_path) == [ALL, ALL - {"export"}]


def test_a_graph_in_another_precision_is_another_graph(tmp_path: Path) -> None:
    orders = [an_order(86), replace(an_order(75), precision="float32")]

    assert takes([a_work("one", orders)], tmp_path) == [ALL, ALL]


def test_a_graph_that_is_there_is_not_exported(tmp_path: Path) -> None:
    order, graphs = an_order(86), GraphCache(tmp_path)
    graphs.keep(order.graph(graphs), b"graph")

    assert takes([a_work("one", [order])], tmp_path) == [ALL - {"export"}]
