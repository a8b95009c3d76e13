"""The cost model: what bounds a call, and how it answers to rows, cards and launches."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_engines.cards import UnknownCard
from trt_engines.costs.hardware import Arithmetic, hardware
from trt_engines.costs.roofline import Launch, copy_seconds, evaluation_seconds, kernel_seconds, occupancy
from trt_engines.costs.work import CLIP_L, SDXL, STABLE_DIFFUSION_1, VAE_DECODER

RTX_4090 = hardware("RTX 4090")
CARDS = ("GTX 1660", "RTX 3060", "RTX 3090", "RTX 4090", "RTX 5090", "H100")
NETWORKS = (STABLE_DIFFUSION_1, SDXL, VAE_DECODER, CLIP_L)


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("arithmetic", [Arithmetic.FLOAT32, Arithmetic.FLOAT16, Arithmetic.FLOAT16_SUMS])
def test_no_call_beats_the_roofline(name: str, arithmetic: Arithmetic) -> None:
    card = hardware(name)
    for network in NETWORKS:
        work = network.work(rows=8, width=1024, height=1024)
        assert evaluation_seconds(work, card, arithmetic) > work.flops / card.peak(arithmetic)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 32),
    side=st.sampled_from([256, 512, 768, 1024]),
    name=st.sampled_from(CARDS),
    network=st.sampled_from([STABLE_DIFFUSION_1, SDXL]),
)
def test_another_row_takes_longer_and_hardly_ever_costs_more_than_the_rows_before_it(
    rows: int, side: int, name: str, network: object
) -> None:
    def seconds(count: int) -> float:
        work = network.work(rows=count, width=side, height=side)  # type: ignore[attr-defined]
        return evaluation_seconds(work, hardware(name), Arithmetic.FLOAT16)

    assert seconds(rows) < seconds(rows + 1)
    assert seconds(rows + 1) / (rows + 1) < seconds(rows) / rows * 1.05  # the cache holds more of a small batch


def test_occupancy_grows_with_rows_and_with_pixels() -> None:
    def share(rows: int, side: int) -> float:
        work = STABLE_DIFFUSION_1.work(rows=rows, width=side, height=side)
        return occupancy(work, RTX_4090, Arithmetic.FLOAT16)

    assert share(2, 256) < share(8, 256) < share(32, 256) < 1
    assert share(2, 256) < share(2, 512) < share(2, 1024)


def test_batching_pays_at_512_pixels_and_hardly_at_1024() -> None:
    def gain(network: object, side: int, images: int) -> float:
        one, many = (
            evaluation_seconds(
                network.work(rows=2 * count, width=side, height=side),  # type: ignore[attr-defined]
                RTX_4090,
                Arithmetic.FLOAT16,
            )
            for count in (1, images)
        )
        return images * one / many

    assert gain(STABLE_DIFFUSION_1, 512, 8) > 1.2
    assert gain(SDXL, 1024, 2) < 1.1


def test_small_calls_on_a_large_card_wait_for_the_host_without_a_graph() -> None:
    work = STABLE_DIFFUSION_1.work(rows=2, width=256, height=256)
    graph, compiled = (
        evaluation_seconds(work, hardware("H100"), Arithmetic.FLOAT16, launch)
        for launch in (Launch.GRAPH, Launch.COMPILED)
    )
    eager = evaluation_seconds(
        STABLE_DIFFUSION_1.work(rows=2, width=256, height=256, fused=False),
        hardware("H100"),
        Arithmetic.FLOAT16,
        Launch.EAGER,
    )

    assert graph < compiled < eager


def test_float16_sums_are_faster_on_geforce_alone() -> None:
    assert RTX_4090.peak(Arithmetic.FLOAT16_SUMS) == 2 * RTX_4090.peak(Arithmetic.FLOAT16)
    assert hardware("H100").peak(Arithmetic.FLOAT16_SUMS) == hardware("H100").peak(Arithmetic.FLOAT16)


def test_a_card_without_tensor_cores_has_no_eight_bit_path() -> None:
    with pytest.raises(ValueError, match="GTX 1660"):
        hardware("GTX 1660").peak(Arithmetic.EIGHT_BITS)


def test_a_card_without_chip_data_is_refused_with_those_that_have_it() -> None:
    with pytest.raises(UnknownCard, match="RTX 4090"):
        hardware("RTX 2060")


def test_listed_clocks_are_those_of_the_vendor() -> None:
    listed = {"GTX 1660": 1.785, "RTX 3060": 1.777, "RTX 4090": 2.52, "RTX 5090": 2.407, "H100": 1.98}  # GHz
    for name, clock in listed.items():
        assert hardware(name).clock / 1e9 == pytest.approx(clock, rel=0.01)


def test_a_copy_costs_its_latency_and_its_bytes() -> None:
    assert copy_seconds(0, RTX_4090) == pytest.approx(10e-6)
    assert copy_seconds(3 * 2**20, RTX_4090) < copy_seconds(6 * 2**20, RTX_4090)


def test_a_kernel_outside_a_graph_costs_the_host_at_least_a_launch() -> None:
    assert kernel_seconds(0, RTX_4090) < kernel_seconds(0, RTX_4090, graph=False)
