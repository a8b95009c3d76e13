"""The CLIP tokenizer of shapes-tiny from the vocabulary files that ship with the model."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Lowercase, Replace, Sequence
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreSequence
from tokenizers.processors import TemplateProcessing

import trt_engines

FOLDER = Path(trt_engines.__file__).parent / "models" / "shapes-tiny" / "tokenizer"
TOKENS = 77


def make_tokenizer(folder: Path = FOLDER) -> Tokenizer:
    """CLIP's byte-pair tokenizer: start token, up to 75 tokens, end token, padded with end tokens to 77."""
    model = BPE.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt"), end_of_word_suffix="</w>", unk_token="<|endoftext|>"
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = Sequence([NFC(), Replace(Regex(r"\s+"), " "), Lowercase()])
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = PreSequence(
        [Split(Regex(pattern), behavior="removed", invert=True), ByteLevel(add_prefix_space=False)]
    )
    tokenizer.post_processor = TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", 49_406), ("<|endoftext|>", 49_407)],
    )
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS, pad_id=49_407, pad_token="<|endoftext|>")
    return tokenizer


def write_vocabulary(merges_of_clip: list[str], folder: Path = FOLDER) -> None:
    """Write vocab.json and merges.txt from CLIP's published merge list.

    Args:
        merges_of_clip: the first 48,894 merges of `bpe_simple_vocab_16e6.txt` (OpenAI CLIP, MIT licence), in order.
    """
    import json

    alphabet = [chr(code) for code in _byte_symbols()]
    symbols = alphabet + [f"{symbol}</w>" for symbol in alphabet] + ["".join(merge.split()) for merge in merges_of_clip]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges_of_clip, ""]), encoding="utf-8")


def _byte_symbols() -> list[int]:
    """The printable stand-in of every byte, in the order of GPT-2's and CLIP's vocabularies."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return printable + [0x100 + extra for extra in range(256 - len(printable))]
