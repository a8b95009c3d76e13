"""A small CLIP vocabulary and a text encoder whose answers can be computed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from trt_engines.backend import EngineSpec
from trt_engines.bucket import Bucket
from trt_engines.model import Component, Model
from trt_worker.condition.tokenizer import ClipTokenizer

CORPUS = (
    "a red square on a white ground, masterpiece, highly detailed photograph of the blue circle",
    "the green triangle isn't there; they're 12 shapes, we've 3 of them",
    "photorealistic realistic photo photos real really detail details",
) * 3


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """vocab.json and merges.txt of a byte-level vocabulary with some merges, laid out as CLIP's."""
    folder = tmp_path_factory.mktemp("tokenizer")
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), end_of_word_suffix="</w>"
    )
    trained.train_from_iterator(CORPUS, trainer)
    learned = json.loads(trained.to_str())["model"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [tuple(pair) for pair in learned["merges"]]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    vocab.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in pairs))
    return vocab, merges


@pytest.fixture(scope="session")
def tokenizer(vocabulary: tuple[Path, Path]) -> ClipTokenizer:
    return ClipTokenizer(*vocabulary)


class LayeredEncoder:
    """A text encoder whose features are the token id, its position and the layer; it counts its calls."""

    def __init__(self, rows: int, layers: int) -> None:
        model = Model(
            name="counting",
            folder=Path(),
            architecture="stable_diffusion_1",
            prediction="epsilon",
            latent_channels=4,
            latent_scale=8,
            context_width=3,
            native_width=64,
            native_height=64,
            checkpoint_files=frozenset(),
            graphs={},
            weights={},
            vocab=Path(),
            merges=Path(),
        )
        bucket = Bucket(width=64, height=64, rows=rows)
        self.spec = EngineSpec(model=model, component=Component.TEXT_ENCODER, bucket=bucket)
        self.inputs: dict[str, NDArray[Any]] = {"input_ids": np.zeros((rows, 77), np.int64)}
        self.outputs: dict[str, NDArray[Any]] = {"context": np.zeros((layers, rows, 77, 3), np.float32)}
        self.calls: list[int] = []
        self.poisoned = False

    def run(self, rows: int) -> None:
        self.calls.append(rows)
        context = self.outputs["context"]
        context[:] = np.nan  # what a caller must not read: rows that were not asked for
        for layer in range(len(context)):
            context[layer, :rows, :, 0] = self.inputs["input_ids"][:rows]
            context[layer, :rows, :, 1] = np.arange(77)
            context[layer, :rows, :, 2] = layer + 1
        if self.poisoned:
            context[0, 0, 3, 1] = np.inf

    def close(self) -> None:
        pass


@pytest.fixture
def an_encoder() -> Callable[..., LayeredEncoder]:
    def make(rows: int = 2, layers: int = 3) -> LayeredEncoder:
        return LayeredEncoder(rows, layers)

    return make
