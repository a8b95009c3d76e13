"""CLIP's tokenizer, from the vocabulary and merges a model ships with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import msgspec
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Lowercase, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers

from trt_engines.errors import ModelUnusable

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
    """Byte-level BPE over lower-cased text, white space folded, as OpenAI published it with CLIP.

    Source: Radford et al. 2021, arXiv:2103.00020, section 2.4; the pattern is that of its reference tokenizer.
    """

    start: int
    """Id of the token before each chunk."""

    end: int
    """Id of the token behind each chunk; also its padding and the id of what the vocabulary lacks."""

    def __init__(self, vocab: Path, merges: Path) -> None:
        """Read the two files.

        Args:
            vocab: JSON object, token to id.
            merges: text, two tokens a line, the most frequent pair first; an optional first line `#version: ...`.
        Raises: ModelUnusable: a file cannot be read, or the two do not belong together.
        """
        ids = _read_vocab(vocab)
        pairs = _read_merges(merges, ids)
        self.start, self.end = ids[START], ids[END]
        try:
            model = BPE(
                vocab=ids, merges=pairs, unk_token=END, end_of_word_suffix=WORD_END, continuing_subword_prefix=""
            )
        except Exception as error:  # the library has no class of its own
            raise ModelUnusable(f"{vocab} and {merges} make no tokenizer ({error}); fetch both again") from error
        self._tokenizer = Tokenizer(model)
        self._tokenizer.normalizer = Normalizers([NFC(), Replace(Regex(r"\s+"), " "), Lowercase()])
        self._tokenizer.pre_tokenizer = PreTokenizers(
            [Split(Regex(_WORDS), behavior="removed", invert=True), ByteLevel(add_prefix_space=False)]
        )
        self._tokenizer.add_special_tokens(
            [AddedToken(token, normalized=False, special=True) for token in (START, END)]
        )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without start and end tokens; nothing but white space has none."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]


@lru_cache(maxsize=8)  # reading one takes a tenth of a second, and models come and go
def clip_tokenizer(vocab: Path, merges: Path) -> ClipTokenizer:
    """The tokenizer of two files, read once. Raises: ModelUnusable: see `ClipTokenizer`."""
    return ClipTokenizer(vocab, merges)


def _read_vocab(path: Path) -> dict[str, int]:
    try:
        ids = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except OSError as error:
        raise ModelUnusable(f"{path}: cannot be read ({error.strerror})") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ModelUnusable(f"{path}: not a JSON object of tokens and ids ({error}); fetch the model again") from error
    for token in (START, END):
        if token not in ids:
            raise ModelUnusable(f"{path}: token {token} is missing, so this is not the vocabulary of a CLIP model")
    return ids


def _read_merges(path: Path, ids: dict[str, int]) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ModelUnusable(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ModelUnusable(f"{path}: not UTF-8 text ({error}); fetch the model again") from error
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            raise ModelUnusable(f"{path}, line {number}: a merge of tokens that the vocabulary lacks; fetch both again")
        pairs.append((left, right))
    return pairs
