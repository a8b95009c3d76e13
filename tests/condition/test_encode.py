from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trt_engines.architectures.text_encoders import CLIP_L_LAYERS, clip_encoding
from trt_engines.errors import EngineFault
from trt_engines.sessions.host_calls import HostCall, HostCalls
from trt_worker.condition.encode import Conditioner, common_tokens, repeat_to
from trt_worker.condition.tokenizer import ClipTokenizer

AnEncoder = Callable[..., Any]


def a_conditioner(calls: HostCalls, tokenizer: ClipTokenizer, **settings: Any) -> Conditioner:
    return Conditioner(calls, tokenizer, clip_encoding(CLIP_L_LAYERS, pad=tokenizer.end), **settings)


def test_a_short_prompt_is_77_rows_of_the_asked_layer(an_encoder: AnEncoder, tokenizer: ClipTokenizer) -> None:
    encoder = an_encoder(layers=3)

    context = a_conditioner(encoder.conditioned, tokenizer).begin("a red square", 2).result().outputs["context"]

    assert context.shape == (77, 3)
    assert context[0, 0] == tokenizer.start
    assert context[-1, 0] == tokenizer.end
    assert (context[:, 2] == 2).all()


def test_a_clip_skip_past_the_layers_means_the_last_layer(an_encoder: AnEncoder, tokenizer: ClipTokenizer) -> None:
    conditioner = a_conditioner(an_encoder(layers=3).conditioned, tokenizer)

    assert (conditioner.begin("a", 4).result().outputs["context"][:, 2] == 1).all()
    assert (conditioner.begin("a", 3).result().outputs["context"][:, 2] == 3).all()


def test_a_clip_skip_below_one_is_refused(an_encoder: AnEncoder, tokenizer: ClipTokenizer) -> None:
    with pytest.raises(ValueError, match="clip_skip"):
        a_conditioner(an_encoder().conditioned, tokenizer).begin("a", 0).result()


def test_more_chunks_than_rows_take_several_calls_and_come_back_in_order(
    an_encoder: AnEncoder, tokenizer: ClipTokenizer
) -> None:
    encoder = an_encoder(rows=2)
    words = ["red", "blue", "green", "white", "real"]
    ids = {word: tokenizer.encode([word])[0][0] for word in words}

    prompt = " ".join(word + (" " + word) * 74 for word in words)
    context = a_conditioner(encoder.conditioned, tokenizer).begin(prompt, 1).result().outputs["context"]

    rows = context.reshape(-1, 77, 3)
    length = [len(tokenizer.encode([word])[0]) for word in words]
    assert sum(encoder.calls) == len(rows)
    assert max(encoder.calls) == 2
    assert rows[0, 1, 0] == ids["red"]
    if set(length) == {1}:
        assert rows[:, 1, 0].tolist() == [ids[word] for word in words]
    assert np.isfinite(context).all()


def test_a_weight_moves_a_token_away_from_the_empty_prompt_at_its_position(
    an_encoder: AnEncoder, tokenizer: ClipTokenizer
) -> None:
    conditioner = a_conditioner(an_encoder().conditioned, tokenizer)
    plain = conditioner.begin("a red b", 1).result().outputs["context"]
    empty = conditioner.begin("", 1).result().outputs["context"]
    width = len(tokenizer.encode(["red"])[0])

    weighted = conditioner.begin("a (red:1.5) b", 1).result().outputs["context"]

    expected = plain.copy()
    expected[2 : 2 + width] = (plain[2 : 2 + width] - empty[2 : 2 + width]) * np.float32(1.5) + empty[2 : 2 + width]
    assert np.array_equal(weighted, expected)
    assert not np.array_equal(weighted, plain)


def test_a_weight_of_zero_leaves_what_the_empty_prompt_has(an_encoder: AnEncoder, tokenizer: ClipTokenizer) -> None:
    conditioner = a_conditioner(an_encoder().conditioned, tokenizer)

    assert np.array_equal(
        conditioner.begin("(red:0)", 1).result().outputs["context"],
        conditioner.begin("", 1).result().outputs["context"],
    )


def test_the_empty_prompt_is_encoded_only_when_some_weight_needs_it(
    an_encoder: AnEncoder, tokenizer: ClipTokenizer
) -> None:
    encoder = an_encoder()
    conditioner = a_conditioner(encoder.conditioned, tokenizer)

    conditioner.begin("a red square", 1).result()
    assert encoder.calls == [1]

    conditioner.begin("a (red) square", 1).result()
    conditioner.begin("a (blue) square", 1).result()
    assert encoder.calls == [1, 1, 1, 1]


def test_a_prompt_that_comes_again_is_not_encoded_again(an_encoder: AnEncoder, tokenizer: ClipTokenizer) -> None:
    encoder = an_encoder()
    conditioner = a_conditioner(encoder.conditioned, tokenizer)

    first = conditioner.begin("ugly", 1).result()
    again = conditioner.begin("ugly", 1).result()

    assert again is first
    assert encoder.calls == [1]
    assert not first.outputs["context"].flags.writeable
    assert (conditioner.begin("ugly", 2).result().outputs["context"][:, 2] == 2).all()


def test_a_prompt_that_is_under_way_is_not_encoded_twice_and_is_not_waited_for(
    an_encoder: AnEncoder, tokenizer: ClipTokenizer
) -> None:
    encoder = an_encoder()
    conditioner = a_conditioner(encoder.conditioned, tokenizer)

    first, again = conditioner.begin("(ugly)", 1), conditioner.begin("(ugly)", 1)

    assert again is first
    assert first.done is (encoder.calls == [1, 1])  # the card has not begun: nothing waits on it
    assert first.result().outputs["context"].shape == (77, 3)
    assert first.done
    assert encoder.calls == [1, 1]  # the prompt and the empty one


def test_the_cache_forgets_what_was_used_longest_ago(an_encoder: AnEncoder, tokenizer: ClipTokenizer) -> None:
    encoder = an_encoder()
    conditioner = a_conditioner(encoder.conditioned, tokenizer, cache_bytes=2 * 77 * 3 * 4)

    for prompt in ("red", "blue", "red", "green"):
        conditioner.begin(prompt, 1).result()
    assert len(encoder.calls) == 3

    conditioner.begin("red", 1).result()
    assert len(encoder.calls) == 3
    conditioner.begin("blue", 1).result()
    assert len(encoder.calls) == 4


def test_encodings_that_nobody_asks_for_are_forgotten_too(an_encoder: AnEncoder, tokenizer: ClipTokenizer) -> None:
    conditioner = a_conditioner(an_encoder().conditioned, tokenizer, cache_bytes=2 * 77 * 3 * 4)

    begun = [weakref.ref(conditioner.begin(prompt, 1)) for prompt in ("red", "blue", "green", "a", "b")]
    gc.collect()

    assert [one() is not None for one in begun] == [False, False, False, True, True]


def test_what_is_remembered_of_a_prompt_is_its_layer_alone(an_encoder: AnEncoder, tokenizer: ClipTokenizer) -> None:
    encoder = an_encoder()
    calls = WatchedCalls(encoder.conditioned)
    conditioner = a_conditioner(calls, tokenizer)

    for prompt in ("red", "(blue:1.2)"):
        conditioner.begin(prompt, 1).result()
    gc.collect()

    assert len(encoder.calls) == len(calls.begun) == 3
    assert [call for call in calls.begun if call() is not None] == []


class WatchedCalls(HostCalls):
    """Calls of an engine, and which of them somebody still holds."""

    def __init__(self, calls: HostCalls) -> None:
        super().__init__(calls._device, calls.engine)
        self.begun: list[weakref.ref[HostCall]] = []

    def begin(self, rows: int, inputs: Mapping[str, NDArray[Any]], entry: int = 0) -> HostCall:
        call = super().begin(rows, inputs, entry)
        self.begun.append(weakref.ref(call))
        return call


def test_notes_of_what_was_left_out_come_with_the_context(an_encoder: AnEncoder, tokenizer: ClipTokenizer) -> None:
    conditioner = a_conditioner(an_encoder().conditioned, tokenizer, max_chunks=1)

    assert "embedding-x" in conditioner.begin("embedding:embedding-x a", 1).result().notes[0]
    long = conditioner.begin("a " * 76, 1).result()
    assert long.outputs["context"].shape == (77, 3)
    assert long.notes


def test_an_encoding_that_is_not_finite_is_a_fault_and_is_not_kept(
    an_encoder: AnEncoder, tokenizer: ClipTokenizer
) -> None:
    encoder = an_encoder()
    conditioner = a_conditioner(encoder.conditioned, tokenizer)
    encoder.poisoned = True
    with pytest.raises(EngineFault, match="counting/text_encoder"):
        conditioner.begin("a", 1).result()

    encoder.poisoned = False
    assert np.isfinite(conditioner.begin("a", 1).result().outputs["context"]).all()


def attention(query: np.ndarray, context: np.ndarray) -> np.ndarray:
    score = np.exp(query @ context.T)
    return np.asarray(score / score.sum(axis=1, keepdims=True) @ context)


@given(chunks=st.integers(1, 3), times=st.integers(1, 4), seed=st.integers(0, 99))
def test_repetition_does_not_change_cross_attention(chunks: int, times: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    context = random.standard_normal((77 * chunks, 4)).astype(np.float32)
    query = random.standard_normal((5, 4))

    repeated = repeat_to(context, 77 * chunks * times)

    assert repeated.shape == (77 * chunks * times, 4)
    np.testing.assert_allclose(attention(query, repeated), attention(query, context), atol=1e-5)


@pytest.mark.parametrize("tokens", [76, 100, 0])
def test_repetition_to_anything_but_a_multiple_is_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match="multiple"):
        repeat_to(np.zeros((77, 3), np.float32), tokens)


def test_contexts_meet_at_their_least_common_multiple() -> None:
    assert common_tokens(154, 231) == 462
