from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_perf.robustness.plain_prompt import plain_weights
from trt_worker.condition.weights import MAX_WEIGHT, Piece, parse_weights


def pieces(prompt: str) -> list[tuple[str, float]]:
    return [(piece.text, pytest.approx(piece.weight)) for piece in parse_weights(prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", []),
        ("a cat", [("a cat", 1.0)]),
        ("(a)", [("a", 1.1)]),
        ("((a))", [("a", 1.21)]),
        ("(a:1.5)", [("a", 1.5)]),
        ("((a:1.5))", [("a", 1.5)]),
        ("(a (b):1.5)", [("a ", 1.5), ("b", 1.65)]),
        ("(a (b:1.3) c:1.2)", [("a ", 1.2), ("b", 1.3), (" c", 1.2)]),
        ("x (a:0.5), y", [("x ", 1.0), ("a", 0.5), (", y", 1.0)]),
        ("(a:-1)", [("a", -1.0)]),
        ("(a:0)", [("a", 0.0)]),
        ("(a: 1.2 )", [("a", 1.2)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(a:)", [("a:", 1.1)]),
        ("(:1.5)", [(":1.5", 1.1)]),
        ("()", []),
        ("[a] BREAK b AND c", [("[a] BREAK b AND c", 1.0)]),
    ],
)
def test_groups_multiply_and_numbers_replace(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert pieces(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (r"\(a\)", [("(a)", 1.0)]),
        (r"(a \(b\):1.2)", [("a (b)", 1.2)]),
        (r"(a\)", [("(a)", 1.0)]),
        (r"a\b", [("a\\b", 1.0)]),
        (r"\\(a\\)", [(r"\(a\)", 1.0)]),
        (r"(a:1.2\))", [("a:1.2)", 1.1)]),
    ],
)
def test_escaped_parentheses_are_text(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert pieces(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a (b c", [("a ", 1.0), ("(b c", 1.0)]),
        ("a (b (c) d", [("a ", 1.0), ("(b (c) d", 1.0)]),
        ("(a (b)", [("a ", 1.1), ("(b", 1.1)]),
        ("(a (b:1.3)", [("a ", 1.3), ("(b", 1.3)]),
        ("((a) (b)", [("a", 1.21), (" ", 1.1), ("(b", 1.1)]),
        ("(", [("(", 1.0)]),
        ("((", [("((", 1.0)]),
    ],
)
def test_what_is_never_closed_is_text_unless_the_prompt_ends_in_a_parenthesis(
    prompt: str, expected: list[tuple[str, float]]
) -> None:
    assert pieces(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (")", [(")", 1.0)]),
        ("a) (b) c", [("a) (b) c", 1.0)]),
        ("a) ((b) c", [("a) (", 1.0), ("b", 1.1), (" c", 1.0)]),
    ],
)
def test_a_surplus_closing_parenthesis_uses_up_the_next_opening_one(
    prompt: str, expected: list[tuple[str, float]]
) -> None:
    assert pieces(prompt) == expected


@pytest.mark.parametrize(
    ("number", "weight"), [("inf", MAX_WEIGHT), ("-inf", -MAX_WEIGHT), ("1e999", MAX_WEIGHT), ("nan", 1.1)]
)
def test_a_number_without_an_end_is_the_largest_weight_and_nan_sets_none(number: str, weight: float) -> None:
    assert pieces(f"(a:{number})") == [("a", weight)]


@given(st.text(alphabet=r"()\:1.5 ab,", max_size=60))
def test_any_prompt_is_read_by_the_rules(prompt: str) -> None:
    assert [(piece.text, piece.weight) for piece in parse_weights(prompt)] == plain_weights(prompt)


@given(st.text())
def test_no_text_is_lost_without_groups(prompt: str) -> None:
    bare = prompt.translate({ord(character): None for character in r"()\\"})

    assert "".join(piece.text for piece in parse_weights(bare)) == bare


def test_ten_thousand_nested_groups_are_read_without_recursion_and_end_at_the_largest_weight() -> None:
    depth = 10_000

    assert parse_weights("(" * depth + "a" + ")" * depth) == (Piece(text="a", weight=MAX_WEIGHT),)


@pytest.mark.parametrize(
    "prompt",
    [
        "(" * 50_000 + ")" * 50_000,
        "(" * 100_000,
        ")" * 100_000,
        "(a:" * 25_000 + ")" * 25_000,
        "(:" * 25_000 + "1.0" + ")" * 25_000,
        "((" * 33_000 + ")" * 33_000,
        "(a:1)" * 20_000,
        "\\(" * 50_000,
        ":" * 50_000 + "(a:" + "1" * 50_000 + ")",
        "(:" + "(" * 20_000 + "a" * 60_000 + ")" * 20_000,
    ],
    ids=["nested", "open", "closed", "colons", "empty heads", "unbalanced", "many", "escapes", "digits", "far colon"],
)
def test_a_hostile_prompt_of_100_kilobytes_touches_each_character_a_bounded_number_of_times(prompt: str) -> None:
    lines = 0

    def count(*_: object) -> object:
        nonlocal lines
        lines += 1
        return count

    previous = sys.gettrace()
    sys.settrace(count)  # type: ignore[arg-type]
    try:
        parse_weights(prompt)
    finally:
        sys.settrace(previous)

    assert lines < 80 * len(prompt)
