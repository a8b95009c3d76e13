"""Sets of byte ranges."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from trt_engines.devices.simulated.blocks import Ranges

ranges = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: (min(pair), max(pair)))


@settings(deadline=None)
@given(st.lists(ranges, max_size=12), ranges)
def test_ranges_cover_what_a_set_of_their_offsets_holds(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    found, expected = Ranges(), set[int]()
    for start, end in added:
        found.add(start, end)
        expected |= set(range(start, end))

    assert found.covers(*asked) == (set(range(*asked)) <= expected)
