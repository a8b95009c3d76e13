"""Tables of names: read both ways, and never in two ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_export.checkpoints.keymap import Change, Entry, KeyMap, Lookup, diffusers, expand, faults, match

QKV = Entry(stored="blocks.{}.qkv.weight", library=("layers.{}.q.weight", "layers.{}.k.weight", "layers.{}.v.weight"))


def a_table(
    *entries: Entry,
    prefixes: tuple[str, ...] = ("",),
    unused: tuple[str, ...] = (),
    tied: tuple[tuple[str, ...], ...] = (),
) -> KeyMap:
    return KeyMap(layout="test", prefixes=prefixes, entries=entries, unused=unused, tied=tied)


def an_entry(stored: str, *library: str) -> Entry:
    return Entry(stored=stored, library=library)


def test_a_fused_tensor_is_found_from_each_of_its_parameters_with_the_position_of_that_one() -> None:
    place = Lookup(a_table(QKV)).by_library("layers.12.k.weight")

    assert place is not None
    assert (place.stored, place.position) == ("blocks.12.qkv.weight", 1)
    assert place.library == ("layers.12.q.weight", "layers.12.k.weight", "layers.12.v.weight")


def test_a_stored_name_leads_to_every_parameter_in_it() -> None:
    place = Lookup(a_table(QKV)).by_stored("blocks.3.qkv.weight")

    assert place is not None
    assert place.library == ("layers.3.q.weight", "layers.3.k.weight", "layers.3.v.weight")


@pytest.mark.parametrize(
    "name", ["blocks.x.qkv.weight", "blocks.01.qkv.weight", "blocks.3.qkv.bias", "a.blocks.3.qkv.weight"]
)
def test_a_name_that_only_looks_alike_is_unknown(name: str) -> None:
    assert Lookup(a_table(QKV)).by_stored(name) is None


def test_a_row_without_placeholders_may_have_numbers_of_its_own() -> None:
    lookup = Lookup(
        a_table(an_entry("input_blocks.0.0.weight", "conv_in.weight"), an_entry("out.2.weight", "conv_out.weight"))
    )

    place = lookup.by_library("conv_out.weight")

    assert place is not None
    assert place.stored == "out.2.weight"
    assert lookup.by_stored("out.3.weight") is None


def test_a_librarys_own_layout_names_everything_as_it_is() -> None:
    place = Lookup(diffusers(["down.0.weight", "down.1.weight"])).by_library("down.1.weight")

    assert place is not None
    assert place.stored == "down.1.weight"


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (a_table(an_entry("a.{}.w", "b.w")), "differ in their placeholders"),
        (a_table(an_entry("a.w")), "differ in their placeholders"),
        (a_table(an_entry("a.{}.w", "b.{}.w"), an_entry("a.0.w", "c.w")), "stored name 'a.0.w' also matches 'a.{}.w'"),
        (a_table(an_entry("a.w", "c.{}.w"), an_entry("b.{}.w", "c.{}.w")), "parameter 'c.{}.w' also matches"),
        (a_table(an_entry("a.{}.w", "b.{}.w"), unused=("a.3.w",)), "stored name 'a.3.w' also matches"),
        (a_table(an_entry("a{}1.w", "b{}.w")), "digits beside a placeholder"),
        (a_table(an_entry("a.w", "b.w"), prefixes=()), "no prefixes"),
        (
            a_table(Entry(stored="a", library=("b", "c"), change=Change.TRANSPOSED)),
            "holds several parameters and is changed as well",
        ),
        (a_table(an_entry("a", "b", "c"), tied=(("b", "d"),)), "holds a tied parameter and others"),
    ],
)
def test_a_table_that_could_be_read_in_two_ways_is_refused(table: KeyMap, complaint: str) -> None:
    assert any(complaint in fault for fault in faults(table))
    with pytest.raises(ValueError, match="at fault"):
        Lookup(table)


def test_the_first_prefix_that_a_file_has_tensors_under_counts() -> None:
    lookup = Lookup(a_table(QKV, prefixes=("model.diffusion_model.", "net.", "")))

    assert lookup.prefix(["vae.x", "net.blocks.0.qkv.weight"]) == "net."
    assert lookup.prefix(["blocks.0.qkv.weight"]) == ""
    assert (
        lookup.prefix(["net.blocks.0.qkv.weight", "model.diffusion_model.blocks.0.qkv.weight"])
        == "model.diffusion_model."
    )
    assert lookup.prefix(["vae.x", "net.y"]) is None


def test_a_tied_parameter_may_lie_in_its_own_tensor_or_in_the_other_ones() -> None:
    lookup = Lookup(a_table(an_entry("a", "x"), an_entry("b", "y"), an_entry("c", "z"), tied=(("x", "y"),)))

    assert [(place.stored, place.library) for place in lookup.places("y")] == [("b", ("y",)), ("a", ("y",))]
    assert [place.stored for place in lookup.places("z")] == ["c"]
    assert lookup.places("w") == ()


def test_names_that_nothing_needs_are_known_as_such() -> None:
    lookup = Lookup(a_table(QKV, unused=("logit_scale", "blocks.{}.position_ids")))

    assert lookup.is_unused("blocks.7.position_ids")
    assert lookup.is_unused("logit_scale")
    assert not lookup.is_unused("blocks.7.qkv.weight")


@given(
    parts=st.lists(st.text("ab._", min_size=1), min_size=1, max_size=5),
    numbers=st.lists(st.integers(0, 10**6), min_size=4, max_size=4),
)
def test_what_a_pattern_makes_it_also_matches(parts: list[str], numbers: list[int]) -> None:
    pattern, given_numbers = "{}".join(parts), tuple(str(number) for number in numbers[: len(parts) - 1])

    assert match(pattern, expand(pattern, given_numbers)) == given_numbers


def test_numbers_and_placeholders_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="2 placeholders and is given 1"):
        expand("a.{}.b.{}", ["1"])
