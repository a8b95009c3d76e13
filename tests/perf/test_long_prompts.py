"""Prompts of more than one chunk are read as ComfyUI reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_perf.robustness.long_prompts import (
    MADE_UP,
    golden_prompts,
    long_prompts,
    ours,
    plain,
    same,
    shipped_tokenizer,
)

GOLDEN = golden_prompts()


@pytest.mark.golden
@pytest.mark.parametrize("number", range(len(GOLDEN)))
def test_a_long_prompt_has_the_tokens_and_weights_of_the_reference(number: int) -> None:
    prompt, (ids, weights) = GOLDEN[number]

    made_ids, made_weights = ours(prompt, shipped_tokenizer())

    assert made_ids.tolist() == ids.tolist()
    assert made_weights.tolist() == weights.tolist()


@pytest.mark.golden
def test_the_plain_reading_is_that_of_the_reference_too() -> None:
    tokenizer = shipped_tokenizer()

    assert [prompt for prompt, expected in GOLDEN if not same(plain(prompt, tokenizer), expected)] == []


def test_made_up_prompts_are_read_alike_by_both_and_differ_from_each_other() -> None:
    tokenizer = shipped_tokenizer()
    prompts = long_prompts(tokenizer, MADE_UP)

    assert [prompt for prompt in prompts if not same(ours(prompt, tokenizer), plain(prompt, tokenizer))] == []
    assert len(set(prompts)) == MADE_UP


PARTS = st.sampled_from(
    ["a", "red circle", " ", "\n", ",", "(", ")", ":1.3", ":nan", ":-inf", "\\(", "x" * 30, " embedding:", "b" * 9]
)


@given(st.lists(PARTS, max_size=120).map("".join))
def test_any_prompt_is_read_alike_by_both(prompt: str) -> None:
    tokenizer = shipped_tokenizer()

    assert same(ours(prompt, tokenizer), plain(prompt, tokenizer))
