"""Which engines stay in memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trt_engines.residency import Choice, Footprint, Resident, Taken, beside, make_room, needed, taken, ways

BUDGET = 100


def a_network(held: int, activations: int = 0, lane: str = "denoise") -> Taken:
    return Taken(held=held, activations={lane: activations})


def a_resident(key: str, held: int, *, used: float = 0.0, in_use: bool = False) -> Resident:
    return Resident(key=key, taken=a_network(held), last_used=used, in_use=in_use)


def whole(held: int, activations: int = 0) -> list[Taken]:
    return [a_network(held, activations)]


def test_activations_of_networks_that_run_in_turn_share_one_block() -> None:
    assert needed([a_network(10, 50), a_network(20, 30)]) == 80
    assert needed([]) == 0


def test_activations_of_networks_that_run_side_by_side_add_up() -> None:
    assert needed([a_network(10, 50), a_network(20, 30, "decode"), a_network(0, 5, "condition")]) == 115


def test_buckets_of_one_network_in_two_lanes_need_both_blocks() -> None:
    buckets = [Footprint(weights=10, activations=5, lane="one"), Footprint(weights=10, activations=7, lane="other")]

    assert needed([taken(buckets), Taken(held=0, activations={"one": 6})]) == 10 + 6 + 7


def test_buckets_have_weights_and_activations_in_common_and_each_its_own_tensors() -> None:
    buckets = [Footprint(weights=10, activations=5, tensors=1), Footprint(weights=10, activations=7, tensors=2)]

    assert taken(buckets) == Taken(held=13, activations={None: 7})


def test_buckets_of_two_engines_take_the_weights_of_both() -> None:
    buckets = [Footprint(weights=10, engine="wide"), Footprint(weights=20, engine="narrow"), Footprint(weights=0)]

    assert taken(buckets).held == 30


def test_a_bucket_is_tried_whole_then_with_ever_more_weights_streamed_and_then_the_next() -> None:
    buckets = [Footprint(weights=120, streamable=100), Footprint(weights=120)]

    assert list(ways(buckets)) == [(0, 0), (0, 25), (0, 50), (0, 75), (0, 100), (1, 0)]


def test_a_further_bucket_of_an_engine_that_streams_has_no_other_weights() -> None:
    loaded = Footprint(weights=60, engine="a")
    bucket = Footprint(weights=120, streamable=100, tensors=3, engine="a")

    assert beside([loaded], bucket) == Footprint(weights=60, tensors=3, engine="a")
    assert beside([loaded], Footprint(weights=9, engine="b")) == Footprint(weights=9, engine="b")


def test_nothing_leaves_while_there_is_room() -> None:
    assert make_room(whole(40), [a_resident("a", 60)], BUDGET) == Choice(option=0, leave=())


def test_the_least_recently_used_leaves_and_no_more_than_that_takes() -> None:
    residents = [a_resident("old", 40, used=1), a_resident("new", 40, used=3), a_resident("older", 10, used=0)]

    assert make_room(whole(50), residents, BUDGET) == Choice(option=0, leave=("old",))


def test_an_engine_in_use_never_leaves() -> None:
    residents = [a_resident("used", 60, used=0, in_use=True), a_resident("idle", 30, used=9)]

    assert make_room(whole(40), residents, BUDGET) == Choice(option=0, leave=("idle",))
    assert make_room(whole(41), residents, BUDGET) is None


def test_streamed_weights_and_then_fewer_rows_come_before_refusal() -> None:
    options = [
        a_network(120, 10),
        a_network(60, 50),
        a_network(60, 40),
    ]

    assert make_room(options, [], BUDGET) == Choice(option=2, leave=())


def test_the_preferred_way_is_taken_though_another_would_spare_an_engine() -> None:
    options = [a_network(80), a_network(20)]

    assert make_room(options, [a_resident("idle", 30)], BUDGET) == Choice(option=0, leave=("idle",))


footprints = st.builds(
    Footprint,
    weights=st.integers(0, 150),
    activations=st.integers(0, 150),
    tensors=st.integers(0, 20),
    streamable=st.integers(0, 150),
    engine=st.sampled_from(["a", "b"]),
    lane=st.sampled_from(["condition", "denoise", "decode"]),
)
networks = st.builds(
    Taken,
    held=st.integers(0, 150),
    activations=st.dictionaries(st.sampled_from(["condition", "denoise", "decode"]), st.integers(0, 150)),
)
residents_of = st.lists(
    st.builds(Resident, key=st.integers(), taken=networks, last_used=st.floats(0, 9), in_use=st.booleans()),
    unique_by=lambda one: one.key,
    max_size=8,
)


@given(options=st.lists(networks, min_size=1, max_size=3), residents=residents_of)
def test_what_stays_always_fits_and_what_is_refused_never_would(
    options: list[Taken], residents: list[Resident]
) -> None:
    choice = make_room(options, residents, BUDGET)

    used = [one.taken for one in residents if one.in_use]
    if choice is None:
        assert all(needed([*used, option]) > BUDGET for option in options)
        return
    stay = [one for one in residents if one.key not in choice.leave]
    assert needed([options[choice.option], *(one.taken for one in stay)]) <= BUDGET
    assert all(one in stay for one in residents if one.in_use)
    assert all(needed([*used, option]) > BUDGET for option in options[: choice.option])


@given(options=st.lists(networks, min_size=1, max_size=1), residents=residents_of)
def test_every_engine_that_leaves_would_not_fit_beside_those_that_stay(
    options: list[Taken], residents: list[Resident]
) -> None:
    choice = make_room(options, residents, BUDGET)

    if choice is not None:
        stay = [one.taken for one in residents if one.key not in choice.leave]
        for gone in (one for one in residents if one.key in choice.leave):
            assert needed([*stay, options[0], gone.taken]) > BUDGET


@given(buckets=st.lists(footprints, max_size=6), more=footprints)
def test_a_bucket_more_never_takes_less_and_at_most_itself(buckets: list[Footprint], more: Footprint) -> None:
    before, after = (needed([taken(some)]) for some in (buckets, [*buckets, more]))

    assert before <= after <= before + more.weights + more.tensors + more.activations


@given(one=st.lists(networks, max_size=4), other=st.lists(networks, max_size=4))
def test_networks_together_take_no_more_than_apart_and_just_as_much_in_lanes_of_their_own(
    one: list[Taken], other: list[Taken]
) -> None:
    together = needed([*one, *other])

    assert max(needed(one), needed(other)) <= together <= needed(one) + needed(other)
    if not {lane for network in one for lane in network.activations} & {
        lane for network in other for lane in network.activations
    }:
        assert together == needed(one) + needed(other)


@given(buckets=st.lists(footprints, min_size=1, max_size=4))
def test_every_way_is_a_bucket_with_at_most_its_streamable_weights_elsewhere(buckets: list[Footprint]) -> None:
    found = list(ways(buckets))

    assert [index for index, _ in found] == sorted(index for index, _ in found)
    assert {index for index, streamed in found if not streamed} == set(range(len(buckets)))
    for index, streamed in found:
        assert 0 <= streamed <= buckets[index].streamable
