"""Prompts of more than one chunk, read by the worker as ComfyUI reads them.

60 come from the reference file, with the tokens and weights that ComfyUI gives them; 240 are made up and compared with
`plain_prompt`, the rule written down a second time.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_engines.architectures.prompting import Vocabulary
from trt_engines.vocabularies import byte_pairs
from trt_perf.robustness.plain_prompt import CHUNK, plain_chunks
from trt_worker.condition.chunks import chunk
from trt_worker.condition.tokenizer import ClipTokenizer, clip_tokenizer
from trt_worker.condition.weights import MAX_WEIGHT, parse_weights

GOLDEN = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[3] / "tests" / "data" / "golden"))
MADE_UP = 240
SEED = 75

WORDS = (
    "a", "red", "circle", "and", "blue", "square", "masterpiece", "ultra-detailed", "8k,", "portrait of an old sailor",
    "photo-realistic", "it's", "1girl", "...", "!!!", "|", "[soft light]", "BREAK", "<lora:name:0.8>", "café", "日本",
    "http://a.b/c?d=e", "pneumonoultramicroscopicsilicovolcanoconiosis", "x" * 29, r"\(style\)", "a:b", "100%",
    "embedding:bad_hands", "embedding:bad_hands,", "\nembedding:easy", "xembedding:no", "embedding:",
)  # fmt: skip
GROUPS = ("({})", "(({}))", "({}:1.3)", "({}: 0.5 )", "({}:-1)", "({}:1e9)", "({}:abc)", "(({}:1.2) a)", "[{}]")
SEPARATORS = (" ", " ", " ", ", ", ",", "\n", "  ")

Tokens = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Token ids and weights, [chunks, 77] each."""


def measure() -> dict[str, float]:
    """How many of 300 prompts are read alike."""
    tokenizer = shipped_tokenizer()
    made_up = long_prompts(tokenizer, MADE_UP)
    alike = sum(same(ours(prompt, tokenizer), expected) for prompt, expected in golden_prompts())
    alike += sum(same(ours(prompt, tokenizer), plain(prompt, tokenizer)) for prompt in made_up)
    return {"long_prompts_alike": float(alike)}


def shipped_tokenizer() -> ClipTokenizer:
    """CLIP's."""
    return clip_tokenizer(*byte_pairs(Vocabulary.CLIP))


def golden_prompts() -> list[tuple[str, Tokens]]:
    """Prompts with the tokens and weights of the reference; weights without an end are the largest that we have."""
    return [
        (
            one["prompt"],
            (
                np.array([part["ids"] for part in one["chunks"]], np.int64),
                np.clip(np.array([part["weights"] for part in one["chunks"]], np.float32), -MAX_WEIGHT, MAX_WEIGHT),
            ),
        )
        for one in json.loads((GOLDEN / "prompts.json").read_text(encoding="utf-8"))
    ]


def long_prompts(tokenizer: ClipTokenizer, count: int) -> list[str]:
    """Prompts of more than 75 tokens, the same ones every time: lists of words with and without emphasis."""
    random_ = random.Random(SEED)
    prompts: list[str] = []
    while len(prompts) < count:
        emphasis = random_.choice((0.0, 0.1, 0.4))
        parts = [_part(random_, emphasis) for _ in range(random_.randrange(10, 90))]
        prompt = "".join(part + random_.choice(SEPARATORS) for part in parts)
        if len(ours(prompt, tokenizer)[0]) > 1:
            prompts.append(prompt)
    return prompts


def ours(prompt: str, tokenizer: ClipTokenizer) -> Tokens:
    """The worker's reading."""
    chunks = chunk(parse_weights(prompt), tokenizer, size=CHUNK, pad=tokenizer.end, most=1000)
    return chunks.ids, chunks.weights


def plain(prompt: str, tokenizer: ClipTokenizer) -> Tokens:
    """The second reading."""
    chunks = plain_chunks(prompt, lambda text: tokenizer.encode([text])[0], tokenizer.start, tokenizer.end)
    pairs = np.array(chunks, np.float64).reshape(-1, CHUNK, 2)
    return pairs[..., 0].astype(np.int64), pairs[..., 1].astype(np.float32)


def same(one: Tokens, other: Tokens) -> bool:
    """Whether every token and every weight is."""
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def _part(random_: random.Random, emphasis: float) -> str:
    text = " ".join(random_.choices(WORDS, k=random_.randrange(1, 7)))
    return random_.choice(GROUPS).format(text) if random_.random() < emphasis else text
