from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_engines.bucket import Bucket
from trt_engines.profiles.cost import Budgets, NetworkCost, RowPadding, plan_file_bytes
from trt_engines.profiles.defaults import default_histogram
from trt_engines.profiles.histogram import Demand, Histogram
from trt_engines.profiles.planner import ProfilePlan, evaluate, plan_profiles
from trt_engines.profiles.profile import Profile, Range
from trt_engines.profiles.shapes import context_bytes, losses, see

MB = 10**6


def a_demand(width: int = 512, height: int = 512, rows: int = 2, tokens: int = 77, weight: float = 1.0) -> Demand:
    return Demand(width=width, height=height, rows=rows, tokens=tokens, weight=weight)


def flops(*, width: int, height: int, tokens: int) -> float:
    cells = width * height / 64
    return 1.5e8 * cells + 3e4 * cells**2 + 1e5 * cells * tokens


def activation_bytes(*, width: int, height: int, tokens: int) -> float:
    return width * height * 1000.0 + tokens * 10_000


def a_network(**changes: object) -> NetworkCost:
    plain = NetworkCost(flops=flops, activation_bytes=activation_bytes, weight_bytes=1700 * MB, token_multiple=77)
    return replace(plain, **changes)  # type: ignore[arg-type]


def some_budgets(vram: int = 12_000 * MB, disk: int = 10_000 * MB, profiles: int = 6, gain: float = 0.005) -> Budgets:
    return Budgets(vram_bytes=vram, disk_bytes=disk, profiles=profiles, least_gain=gain)


shapes = st.builds(
    a_demand,
    width=st.sampled_from([256, 512, 768, 1024]),
    height=st.sampled_from([256, 512, 768, 1024]),
    rows=st.sampled_from([1, 2, 4, 6]),
    tokens=st.sampled_from([60, 77, 231]),
    weight=st.sampled_from([0.1, 1.0, 5.0]),
)
histograms = st.lists(shapes, min_size=1, max_size=5).map(Histogram.of)
networks = st.builds(a_network, row_padding=st.sampled_from(RowPadding))
budgets = st.builds(
    some_budgets,
    vram=st.sampled_from([1600, 1800, 2300, 3000, 5000, 9000]).map(lambda size: size * MB),
    disk=st.sampled_from([1700, 1731, 1755, 1800, 3000]).map(lambda size: size * MB),
    profiles=st.integers(1, 3),
    gain=st.just(0.0),
)


def every_profile(histogram: Histogram, cost: NetworkCost) -> Iterator[Profile]:
    """All boxes whose corners lie on the demanded sizes, with every demanded shape inside as opt."""
    tokens = sorted({-(-demand.tokens // 77) * 77 for demand in histogram.demands})
    widths = sorted({demand.width for demand in histogram.demands})
    heights = sorted({demand.height for demand in histogram.demands})
    rows = sorted({-(-demand.rows // n) for demand in histogram.demands for n in range(1, demand.rows + 1)})
    for width, height, most, length in product(widths, heights, rows, tokens):
        for best_width, best_height, best_rows, best_length in product(widths, heights, rows, tokens):
            full = cost.row_padding is RowPadding.FULL
            if best_width <= width and best_height <= height and best_rows <= most and best_length <= length:
                yield Profile(
                    width=Range(min=widths[0], opt=best_width, max=width),
                    height=Range(min=heights[0], opt=best_height, max=height),
                    rows=Range(min=most if full else 1, opt=most if full else best_rows, max=most),
                    tokens=Range(min=tokens[0], opt=best_length, max=length),
                )


def fits(plan: ProfilePlan, budget: Budgets) -> bool:
    return plan.vram_bytes <= budget.vram_bytes and plan.disk_bytes <= budget.disk_bytes


@settings(max_examples=40, deadline=None)
@given(histograms, networks, budgets)
def test_a_plan_is_never_over_its_budgets(histogram: Histogram, cost: NetworkCost, budget: Budgets) -> None:
    plan = plan_profiles(histogram, budget, cost)

    assert fits(plan, budget)
    assert len(plan.profiles) <= budget.profiles
    largest = max(
        (profile.largest for profile in plan.profiles), default=None, key=lambda b: b.width * b.height * b.rows
    )
    if largest is not None:
        need = largest.rows * activation_bytes(width=largest.width, height=largest.height, tokens=0)
        assert cost.weight_bytes + need <= plan.vram_bytes
        assert plan.disk_bytes == plan_file_bytes(cost.weight_bytes, len(plan.profiles))


@settings(max_examples=40, deadline=None)
@given(histograms, networks, budgets)
def test_every_demand_is_served_by_a_profile_that_covers_its_calls_or_named_with_a_reason(
    histogram: Histogram, cost: NetworkCost, budget: Budgets
) -> None:
    plan = plan_profiles(histogram, budget, cost)

    named = [served.demand for served in plan.served] + [left.demand for left in plan.uncovered]
    assert sorted(named) == list(histogram.demands)
    assert all(left.reason for left in plan.uncovered)
    assert sum(served.demand.weight for served in plan.served) == pytest.approx(plan.covered_jobs)
    for served in plan.served:
        profile, demand = plan.profiles[served.profile], served.demand
        rows = profile.rows.max if cost.row_padding is RowPadding.FULL else -(-demand.rows // served.calls)
        tokens = -(-demand.tokens // 77) * 77
        assert profile.covers(Bucket(width=demand.width, height=demand.height, rows=rows, tokens=tokens))


@settings(max_examples=40, deadline=None)
@given(histograms, networks, budgets)
def test_a_plan_never_loses_more_than_one_profile_over_the_full_range(
    histogram: Histogram, cost: NetworkCost, budget: Budgets
) -> None:
    plan = plan_profiles(histogram, budget, cost)

    everything = list(every_profile(histogram, cost))
    for profile in everything:
        if profile.largest == everything[-1].largest:
            full = evaluate((profile,), histogram, budget, cost)
            assert not fits(full, budget) or plan.lost <= full.lost + 1e-9


def least_lost(histogram: Histogram, cost: NetworkCost, budget: Budgets) -> float:
    """What the best of all plans with up to two profiles loses."""
    seen, _ = see(histogram, cost)
    room = budget.vram_bytes - cost.weight_bytes
    columns = {
        tuple(np.minimum(losses(seen, profile, cost).total, seen.useful))
        for profile in every_profile(histogram, cost)
        if context_bytes(profile, cost) <= room
    }
    allowed = [count for count in (1, 2) if count <= budget.profiles]
    allowed = [count for count in allowed if plan_file_bytes(cost.weight_bytes, count) <= budget.disk_bytes]
    if not columns or not allowed:
        return 1.0
    table = np.array(sorted(columns))
    least = float(table.sum(axis=1).min())
    if 2 in allowed:
        least = min(float(np.minimum(table, row).sum(axis=1).min()) for row in table)
    return least / float(seen.useful.sum())


@settings(max_examples=60, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=6).map(Histogram.of), networks, budgets)
def test_a_plan_loses_at_most_four_tenths_more_than_the_best_of_all_plans(
    histogram: Histogram, cost: NetworkCost, budget: Budgets
) -> None:
    budget = replace(budget, profiles=min(budget.profiles, 2))

    plan = plan_profiles(histogram, budget, cost)

    assert plan.lost <= 1.4 * least_lost(histogram, cost, budget) + 1e-9


def test_exchanges_find_what_greed_alone_misses() -> None:
    heavy = a_demand(width=768, height=512, rows=4, weight=50)
    others = [
        a_demand(width=256, height=1280, rows=4),
        a_demand(width=768, height=768, rows=2, weight=10),
        a_demand(width=768, height=768, rows=8, weight=10),
        a_demand(width=768, height=1024, rows=8, weight=10),
        a_demand(width=1280, height=256, rows=4),
    ]
    budget = some_budgets(vram=9000 * MB, profiles=2, gain=0.0)
    histogram = Histogram.of([heavy, *others])

    plan = plan_profiles(histogram, budget, a_network())

    assert plan.lost <= 1.001 * least_lost(histogram, a_network(), budget)


def test_a_rare_size_gets_a_profile_of_its_own_however_little_that_saves() -> None:
    common, rare = a_demand(rows=2, weight=1e7), a_demand(width=2048, height=256, rows=2)
    other = a_demand(width=256, height=2048, rows=2)

    plan = plan_profiles(Histogram.of([common, rare, other]), some_budgets(vram=2700 * MB), a_network())

    assert plan.covered_jobs == 1
    assert len(plan.profiles) > 1


@settings(max_examples=60, deadline=None)
@given(histograms, networks, budgets)
def test_a_profile_reaches_no_further_than_the_jobs_it_serves(
    histogram: Histogram, cost: NetworkCost, budget: Budgets
) -> None:
    plan = plan_profiles(histogram, budget, cost)

    for place, profile in enumerate(plan.profiles):
        mine = [served.demand for served in plan.served if served.profile == place]
        assert profile.width.max == max(profile.width.opt, *(demand.width for demand in mine))
        assert profile.height.max == max(profile.height.opt, *(demand.height for demand in mine))


@settings(max_examples=40, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=5), networks, budgets)
def test_the_order_of_a_tally_does_not_change_the_plan(tally: list[Demand], cost: NetworkCost, budget: Budgets) -> None:
    counted = [replace(demand, weight=round(10 * demand.weight)) for demand in tally]

    forwards, backwards = Histogram.of(counted), Histogram.of(reversed(counted))

    assert plan_profiles(forwards, budget, cost) == plan_profiles(backwards, budget, cost)


def test_a_size_whose_single_row_does_not_fit_is_named_with_what_it_needs() -> None:
    large = a_demand(width=1536, height=1536)

    plan = plan_profiles(Histogram.of([a_demand(), large]), some_budgets(vram=3000 * MB), a_network())

    assert [left.demand.label for left in plan.uncovered] == [large.label]
    assert "one row needs 2.4 GB of activations, 1.3 GB are left" in plan.uncovered[0].reason
    assert plan.covered_jobs == pytest.approx(0.5)


def test_rows_that_do_not_fit_at_once_are_split_over_calls() -> None:
    plan = plan_profiles(Histogram.of([a_demand(rows=8)]), some_budgets(vram=2300 * MB), a_network())

    assert [served.calls for served in plan.served] == [4]
    assert plan.covered_jobs == 1
    assert plan.padding == 0
    assert plan.slower > 0


def test_weights_that_do_not_fit_leave_everything_uncovered_with_the_reason() -> None:
    plan = plan_profiles(Histogram.of([a_demand()]), some_budgets(vram=1000 * MB), a_network())

    assert plan.profiles == ()
    assert "the weights take 1.7 GB, 1.0 GB are there" in plan.uncovered[0].reason
    assert plan.lost == 1


def test_streamed_weights_leave_room_for_the_activations() -> None:
    streamed = a_network(streamed_bytes=1000 * MB)

    plan = plan_profiles(Histogram.of([a_demand()]), some_budgets(vram=1300 * MB), streamed)

    assert plan.covered_jobs == 1
    assert plan.vram_bytes <= 1300 * MB


def test_a_disk_without_room_for_the_engine_is_the_reason() -> None:
    plan = plan_profiles(Histogram.of([a_demand()]), some_budgets(disk=1700 * MB), a_network())

    assert plan.profiles == ()
    assert "no disk for the engine: it takes 1.7 GB" in plan.uncovered[0].reason


def test_texts_are_padded_to_their_multiple_and_the_padding_is_counted() -> None:
    plan = plan_profiles(Histogram.of([a_demand(tokens=100)]), some_budgets(), a_network())

    asked, run = flops(width=512, height=512, tokens=100), flops(width=512, height=512, tokens=154)
    assert plan.profiles[0].tokens == Range(min=154, opt=154, max=154)
    assert plan.padding == pytest.approx(1 - asked / run)


def test_full_rows_give_each_batch_its_own_profile_where_exact_rows_need_one() -> None:
    histogram = Histogram.of([a_demand(rows=1), a_demand(rows=2), a_demand(rows=4)])

    exact = plan_profiles(histogram, some_budgets(gain=0.05), a_network())
    full = plan_profiles(histogram, some_budgets(gain=0.05), a_network(row_padding=RowPadding.FULL))

    assert len(exact.profiles) == 1
    assert len(full.profiles) > 1
    assert full.padding == 0
    assert all(profile.rows.min == profile.rows.max for profile in full.profiles)


def test_a_full_batch_far_larger_than_a_job_is_left_to_the_fallback() -> None:
    profile = Profile(
        width=Range(min=512, opt=512, max=512),
        height=Range(min=512, opt=512, max=512),
        rows=Range(min=8, opt=8, max=8),
        tokens=Range(min=77, opt=77, max=77),
    )
    histogram, cost = Histogram.of([a_demand(rows=1)]), a_network(row_padding=RowPadding.FULL)

    plan = evaluate((profile,), histogram, some_budgets(), cost)

    assert "run padded" in plan.uncovered[0].reason


def test_a_text_encoder_has_one_range_of_every_size() -> None:
    histogram = Histogram.of([a_demand(width=256), a_demand(width=1536), a_demand(tokens=231)])

    plan = plan_profiles(histogram, some_budgets(), a_network(sees_size=False))

    assert all(profile.width == Range(min=256, opt=1536, max=1536) for profile in plan.profiles)
    assert plan.covered_jobs == 1


@pytest.mark.parametrize("vram", [4000, 8000, 24000])
def test_the_default_histogram_of_a_512_family_is_covered_from_four_gigabytes_on(vram: int) -> None:
    cost = a_network(activation_bytes=lambda *, width, height, tokens: width * height * 900.0)
    histogram = default_histogram(native_pixels=512**2, tokens=(77, 154, 231), guidance_rows=2)

    plan = plan_profiles(histogram, some_budgets(vram=vram * MB), cost)

    assert plan.covered_jobs == 1
    assert plan.padding == pytest.approx(0, abs=1e-12)
    assert plan.lost < 0.12
    assert any(profile.covers(Bucket(width=512, height=512, rows=2, tokens=77)) for profile in plan.profiles)
