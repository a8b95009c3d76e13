"""Which engines stay in memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trt_engines.residency import Choice, Footprint, Resident, make_room, needed

BUDGET = 100


def a_resident(key: str, weights: int, *, used: float = 0.0, in_use: bool = False, activations: int = 0) -> Resident:
    footprint = Footprint(weights=weights, activations=activations)
    return Resident(key=key, footprint=footprint, last_used=used, in_use=in_use)


def whole(weights: int, activations: int = 0) -> list[Footprint]:
    return [Footprint(weights=weights, activations=activations)]


def test_activations_of_engines_that_run_in_turn_share_one_block() -> None:
    assert needed([Footprint(weights=10, activations=50), Footprint(weights=20, activations=30)]) == 80
    assert needed([]) == 0


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
        Footprint(weights=120, activations=10),
        Footprint(weights=60, activations=50),
        Footprint(weights=60, activations=40),
    ]

    assert make_room(options, [], BUDGET) == Choice(option=2, leave=())


def test_the_preferred_way_is_taken_though_another_would_spare_an_engine() -> None:
    options = [Footprint(weights=80), Footprint(weights=20)]

    assert make_room(options, [a_resident("idle", 30)], BUDGET) == Choice(option=0, leave=("idle",))


footprints = st.builds(Footprint, weights=st.integers(0, 150), activations=st.integers(0, 150))
residents_of = st.lists(
    st.builds(Resident, key=st.integers(), footprint=footprints, last_used=st.floats(0, 9), in_use=st.booleans()),
    unique_by=lambda one: one.key,
    max_size=8,
)


@given(options=st.lists(footprints, min_size=1, max_size=3), residents=residents_of)
def test_what_stays_always_fits_and_what_is_refused_never_would(
    options: list[Footprint], residents: list[Resident]
) -> None:
    choice = make_room(options, residents, BUDGET)

    used = [one.footprint for one in residents if one.in_use]
    if choice is None:
        assert all(needed([*used, option]) > BUDGET for option in options)
        return
    stay = [one for one in residents if one.key not in choice.leave]
    assert needed([options[choice.option], *(one.footprint for one in stay)]) <= BUDGET
    assert all(one in stay for one in residents if one.in_use)
    assert all(needed([*used, option]) > BUDGET for option in options[: choice.option])


@given(options=st.lists(footprints, min_size=1, max_size=1), residents=residents_of)
def test_every_engine_that_leaves_would_not_fit_beside_those_that_stay(
    options: list[Footprint], residents: list[Resident]
) -> None:
    choice = make_room(options, residents, BUDGET)

    if choice is not None:
        stay = [one.footprint for one in residents if one.key not in choice.leave]
        for gone in (one for one in residents if one.key in choice.leave):
            assert needed([*stay, options[0], gone.footprint]) > BUDGET
