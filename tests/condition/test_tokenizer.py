from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from trt_engines.errors import ModelUnusable
from trt_engines.model import BUILT_IN
from trt_worker.condition.tokenizer import ClipTokenizer


@pytest.fixture(scope="session")
def reference(vocabulary: tuple[Path, Path]) -> CLIPTokenizer:
    vocab, merges = vocabulary
    return CLIPTokenizer(str(vocab), str(merges))


PROMPTS = (
    "a red square",
    "A  Red\tSQUARE\n\non a white   ground!!!",
    "masterpiece, (highly detailed), isn't, they're, 1girl 2024 4k",
    "Ünïcödé naïve cafe\u0301 \u00a0 \u3000 日本語 привет 🐈‍⬛ 👍🏽",
    "<|endoftext|> in the middle <|startoftext|>",
    "<lora:x:1> __init__ a_b-c.d/e\\f",
    "\x00\x01\u200b\ufeff\ud7ff",
    "",
    "   ",
)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_ids_are_those_of_the_reference_tokenizer(
    tokenizer: ClipTokenizer, reference: CLIPTokenizer, prompt: str
) -> None:
    (ids,) = tokenizer.encode([prompt])

    assert [tokenizer.start, *ids, tokenizer.end] == reference(prompt)["input_ids"]


@settings(max_examples=150, deadline=None)
@given(prompt=st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_any_text_gets_the_ids_of_the_reference_tokenizer(
    tokenizer: ClipTokenizer, reference: CLIPTokenizer, prompt: str
) -> None:
    (ids,) = tokenizer.encode([prompt])

    assert [tokenizer.start, *ids, tokenizer.end] == reference(prompt)["input_ids"]


def test_words_tokenised_one_by_one_give_the_ids_of_the_whole_text(tokenizer: ClipTokenizer) -> None:
    text = "masterpiece, highly detailed photograph of 12 shapes, they're real!"

    apart = tokenizer.encode(text.split())

    assert [number for ids in apart for number in ids] == tokenizer.encode([text])[0]


def test_merges_are_applied(tokenizer: ClipTokenizer) -> None:
    assert len(tokenizer.encode(["photo"])[0]) < len("photo")


@pytest.mark.parametrize(
    ("vocab", "merges", "complaint"),
    [
        ("[]", "", "not a JSON object"),
        ('{"a": 0}', "", "<|startoftext|> is missing"),
        ('{"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2}', "#version: 0.2\na b\n", "line 2"),
    ],
)
def test_files_that_do_not_belong_together_are_refused_with_their_name(
    tmp_path: Path, vocab: str, merges: str, complaint: str
) -> None:
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(merges)

    with pytest.raises(ModelUnusable) as refused:
        ClipTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")

    assert complaint in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"vocab\.json"):
        ClipTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")


@pytest.mark.parametrize(
    "vocab", [b"\xff", b'{"\xff": 1}', b'{"<|startoftext|>": -1, "<|endoftext|>": 1}', b'{"<|startoftext|>": 1e400}']
)
def test_bytes_that_are_no_vocabulary_are_the_models_fault_and_no_traceback(tmp_path: Path, vocab: bytes) -> None:
    (tmp_path / "vocab.json").write_bytes(vocab)
    (tmp_path / "merges.txt").write_text("")

    with pytest.raises(ModelUnusable, match=r"vocab\.json"):
        ClipTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_the_tokenizer_that_ships_gives_the_published_ids_of_clip() -> None:
    folder = BUILT_IN / "shapes-tiny" / "tokenizer"
    tokenizer = ClipTokenizer(folder / "vocab.json", folder / "merges.txt")

    assert (tokenizer.start, tokenizer.end) == (49406, 49407)
    assert tokenizer.encode(["a photo of a cat"]) == [[320, 1125, 539, 320, 2368]]
