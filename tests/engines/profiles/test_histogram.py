from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_engines.bucket import Bucket
from trt_engines.profiles.defaults import SOURCE_PIXELS, default_histogram
from trt_engines.profiles.histogram import Demand, Histogram, HistogramUnusable, read_histogram, write_histogram
from trt_engines.profiles.profile import Profile, Range


def a_demand(width: int = 512, height: int = 512, rows: int = 2, tokens: int = 77, weight: float = 1.0) -> Demand:
    return Demand(width=width, height=height, rows=rows, tokens=tokens, weight=weight)


demands = st.lists(
    st.builds(
        a_demand,
        width=st.integers(1, 4096),
        height=st.integers(1, 4096),
        rows=st.integers(1, 64),
        tokens=st.integers(1, 4096),
        weight=st.floats(1e-3, 1e9),
    ),
    min_size=1,
    max_size=20,
)


def test_demands_of_one_shape_are_added_up_and_all_weights_make_one() -> None:
    histogram = Histogram.of([a_demand(weight=2), a_demand(width=768, weight=5), a_demand(weight=3)])

    assert histogram.demands == (a_demand(weight=0.5), a_demand(width=768, weight=0.5))


def test_demands_of_weight_zero_are_not_there() -> None:
    assert Histogram.of([a_demand(), a_demand(width=64, weight=0)]).demands == (a_demand(),)


@pytest.mark.parametrize(
    "unusable",
    [[], [a_demand(weight=0)], [a_demand(weight=-1)], [a_demand(weight=float("nan"))], [a_demand(rows=0)]],
)
def test_a_histogram_that_says_nothing_or_nonsense_is_refused(unusable: list[Demand]) -> None:
    with pytest.raises(HistogramUnusable):
        Histogram.of(unusable)


@settings(max_examples=40, deadline=None)
@given(demands)
def test_what_was_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, some: list[Demand]) -> None:
    path = tmp_path_factory.mktemp("tally") / "jobs.json"

    write_histogram(path, some)

    assert read_histogram(path) == Histogram.of(sorted(some))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200))
def test_any_other_file_is_refused_with_its_name(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("tally") / "jobs.json"
    path.write_bytes(content)

    with pytest.raises(HistogramUnusable, match=r"jobs\.json"):
        read_histogram(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"version": 2, "demands": []}', "version 2"),
        ('{"version": 1, "demands": []}', "at least one demand"),
        ('{"version": 1, "demands": [{"width": 0, "height": 64, "rows": 1, "tokens": 77}]}', r"demands\[0\]\.width"),
        ('{"version": 1, "demands": [{"width": 64, "height": 64, "rows": 1}]}', "tokens"),
        ('{"version": 1, "demands": [], "colour": 1}', "colour"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_field(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "jobs.json"
    path.write_text(content)

    with pytest.raises(HistogramUnusable, match=said):
        read_histogram(path)


def test_a_file_that_is_not_there_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HistogramUnusable, match="leave it out"):
        read_histogram(tmp_path / "none.json")


def test_a_blend_keeps_the_rare_sizes_of_the_other_histogram_at_its_share() -> None:
    tally, default = Histogram.of([a_demand()]), Histogram.of([a_demand(), a_demand(width=1024)])

    blended = tally.blended(default, 0.2)

    assert blended.demands == (a_demand(weight=0.9), a_demand(width=1024, weight=0.1))


@pytest.mark.parametrize("native", [512, 768, 1024])
def test_the_default_histogram_covers_every_size_that_the_grid_allows(native: int) -> None:
    histogram = default_histogram(native_pixels=native**2, tokens=(77, 154, 231), guidance_rows=2)

    shapes = {demand.shape for demand in histogram.demands}
    sizes = range(256, 1537, 64)
    assert shapes == {(w, h, r, t) for w in sizes for h in sizes for r in (2, 4, 6, 8) for t in (77, 154, 231)}
    assert sum(demand.weight for demand in histogram.demands) == pytest.approx(1)
    heaviest = max(histogram.demands, key=lambda demand: demand.weight)
    assert heaviest.shape == (native, native, 2, 77)


def test_source_image_sizes_are_there_only_where_the_network_can_run_them() -> None:
    fine = default_histogram(native_pixels=1024**2, tokens=(256, 512), guidance_rows=1, size_step=16)
    coarse = default_histogram(native_pixels=1024**2, tokens=(77,), guidance_rows=2, size_step=64)

    odd = [demand for demand in fine.demands if demand.width % 64 or demand.height % 64]
    assert (1184, 800) in {(demand.width, demand.height) for demand in odd}
    assert max(demand.width * demand.height for demand in odd) < 1.05 * SOURCE_PIXELS
    assert not [demand for demand in coarse.demands if demand.width % 64 or demand.height % 64]


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 1, 3), (1, 4, 3)])
def test_a_range_that_is_not_in_order_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="min <= opt <= max"):
        Range(min=sizes[0], opt=sizes[1], max=sizes[2])


@pytest.mark.parametrize("axis", ["width", "height", "rows", "tokens"])
def test_a_profile_covers_a_bucket_only_if_every_axis_lies_inside(axis: str) -> None:
    sizes = {"width": 512, "height": 512, "rows": 4, "tokens": 154}
    profile = Profile(**{name: Range(min=size, opt=size, max=2 * size) for name, size in sizes.items()})

    assert profile.covers(Bucket(**sizes))
    assert profile.covers(profile.largest)
    assert not profile.covers(Bucket(**sizes | {axis: sizes[axis] - 1}))
    assert not profile.covers(Bucket(**sizes | {axis: 2 * sizes[axis] + 1}))


def test_a_profile_is_labelled_by_its_ranges() -> None:
    profile = Profile(
        width=Range(min=256, opt=512, max=1024),
        height=Range(min=512, opt=512, max=512),
        rows=Range(min=1, opt=2, max=8),
        tokens=Range(min=77, opt=77, max=231),
    )

    assert profile.label == "256-1024x512r1-8t77-231"
