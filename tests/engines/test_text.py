"""Text from outside, made fit for messages, logs and tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_engines.errors import EngineError
from trt_engines.text import escaped, message, shown


@given(st.text(), st.integers(60, 300))
def test_what_is_shown_is_one_printable_line_of_bounded_length(text: str, most: int) -> None:
    line = shown(text * 20, most)

    assert len(line) <= most
    assert line.isprintable()


@pytest.mark.parametrize("text", ["Deliberate v2 (fp16)", "ein Häuschen, 小さな家", "C:\\models", ""])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert shown(text) == escaped(text) == message(text) == text


@pytest.mark.parametrize("code", ["\x1b[2J", "\r", "\n", "\x07", "\x9b31m", "\u2028", "\u202e", "\ud800", "\u200b"])
def test_what_a_terminal_or_a_reader_of_lines_obeys_becomes_an_escape(code: str) -> None:
    assert shown(f"a{code}b") == f"a{code[0].encode('unicode_escape').decode()}{code[1:]}b"


def test_a_long_text_is_cut_in_the_middle_so_that_its_end_is_still_said() -> None:
    told = shown(f"no sampler {'x' * 112_000}; known are euler and lms")

    assert told.startswith("no sampler xxx")
    assert told.endswith("; known are euler and lms")
    assert "112036 characters" in told


def test_the_lines_of_a_message_of_our_own_stay() -> None:
    assert message("two problems:\n\tone\x1b[m\n\ttwo") == "two problems:\n\tone\\x1b[m\n\ttwo"
    assert str(EngineError("one\n\x1b[2Jtwo")) == "one\n\\x1b[2Jtwo"
