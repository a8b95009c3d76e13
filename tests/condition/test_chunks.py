from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_worker.condition.chunks import Chunks, chunk
from trt_worker.condition.weights import Piece, parse_weights

START, END = 900, 901


class LetterTokenizer:
    """One token per letter, its code point, none for white space: lengths are what they look like."""

    start, end = START, END

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(letter) for letter in text if not letter.isspace()] for text in texts]


def chunks_of(prompt: str, most: int = 100) -> Chunks:
    return chunk(parse_weights(prompt), LetterTokenizer(), size=77, pad=END, most=most)


def text_of(chunks: Chunks) -> list[str]:
    return ["".join(chr(number) for number in row if number not in (START, END)) for row in chunks.ids]


def test_an_empty_prompt_is_one_chunk_of_start_and_ends() -> None:
    chunks = chunks_of("")

    assert chunks.ids.tolist() == [[START] + [END] * 76]
    assert not chunks.weighted


def test_a_chunk_is_start_text_end_and_padding_of_ends() -> None:
    assert chunks_of("ab c").ids.tolist() == [[START, ord("a"), ord("b"), ord("c")] + [END] * 73]


def test_a_text_encoder_of_another_padding_still_ends_its_text_with_the_end() -> None:
    chunks = chunk(parse_weights("ab"), LetterTokenizer(), size=77, pad=0, most=1)

    assert chunks.ids.tolist() == [[START, ord("a"), ord("b"), END] + [0] * 73]


def test_75_tokens_fill_one_chunk_exactly_and_the_next_opens_another() -> None:
    assert chunks_of("a " * 75).ids.tolist() == [[START] + [ord("a")] * 75 + [END]]
    assert text_of(chunks_of("a " * 76)) == ["a" * 75, "a"]


def test_a_stretch_of_7_tokens_moves_whole_to_the_next_chunk() -> None:
    chunks = chunks_of("a" * 70 + "(bcd efgh:1.2)")

    assert text_of(chunks) == ["a" * 70, "bcdefgh"]
    assert chunks.ids[0, 71:].tolist() == [END] * 6


def test_a_stretch_of_8_tokens_is_cut_at_the_end_of_the_chunk_even_inside_a_word() -> None:
    assert text_of(chunks_of("a" * 70 + "(bc defghi:1.2)")) == ["a" * 70 + "bcdef", "ghi"]


def test_words_of_one_weight_are_one_stretch_and_none_of_them_moves_whole() -> None:
    assert text_of(chunks_of("a " * 70 + "bcdefgh")) == ["a" * 70 + "bcdef", "gh"]


@pytest.mark.parametrize("before", [" ", "\n", "\n "])
def test_a_textual_inversion_ends_a_stretch(before: str) -> None:
    assert text_of(chunks_of("a " * 70 + before + "embedding:x bcdefgh")) == ["a" * 70, "bcdefgh"]


def test_a_cut_stretch_longer_than_chunks_goes_on_through_all_of_them() -> None:
    assert text_of(chunks_of("b" * 160)) == ["b" * 75, "b" * 75, "b" * 10]


def test_weights_stand_at_the_positions_of_their_text_and_nowhere_else() -> None:
    weights = chunks_of("a (bc:1.5) d").weights[0]

    assert weights[:6].tolist() == [1.0, 1.0, 1.5, 1.5, 1.0, 1.0]
    assert (weights[6:] == 1.0).all()


def test_a_textual_inversion_is_left_out_with_one_note_and_its_neighbours_stay() -> None:
    chunks = chunks_of("a embedding:bad-hands, b (embedding:bad-hands:1.2) c")

    assert text_of(chunks) == ["a,bc"]
    assert chunks.notes == ("textual inversion 'bad-hands' left out: this worker has none",)


def test_a_word_that_merely_contains_the_embedding_mark_stays() -> None:
    assert text_of(chunks_of("xembedding:y")) == ["xembedding:y"]


def test_chunks_past_the_most_are_left_out_with_a_note() -> None:
    chunks = chunks_of("a " * 75 * 3, most=2)

    assert chunks.ids.shape == (2, 77)
    assert "3 chunks" in chunks.notes[0]


@given(
    st.lists(st.builds(Piece, text=st.text("abc ", max_size=120), weight=st.sampled_from([1.0, 0.5, 1.1])), max_size=12)
)
def test_all_tokens_arrive_in_order_and_short_stretches_stay_whole(pieces: list[Piece]) -> None:
    chunks = chunk(pieces, LetterTokenizer(), size=77, pad=END, most=1000)
    stretches = ["".join(piece.text.split()) for piece in pieces]
    expected = [piece.weight for piece, text in zip(pieces, stretches, strict=True) for _ in text]
    is_text = (chunks.ids != START) & (chunks.ids != END)

    assert "".join(text_of(chunks)) == "".join(stretches)
    assert np.array_equal(chunks.weights[is_text], np.asarray(expected, np.float32))
    assert (chunks.ids[:, 0] == START).all()
    assert (chunks.ids[:, -1] == END).all()
    borders = set(np.cumsum([len(text) for text in text_of(chunks)])[:-1].tolist())
    at = 0
    for text in stretches:
        if len(text) < 8:
            assert not borders & set(range(at + 1, at + len(text)))
        at += len(text)
