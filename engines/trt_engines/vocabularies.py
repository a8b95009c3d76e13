"""The files of vocabularies that ship with the package."""

from __future__ import annotations

from pathlib import Path

from trt_engines.architectures.prompting import Vocabulary
from trt_engines.errors import ModelUnusable
from trt_engines.model import BUILT_IN

_FOLDERS = {Vocabulary.CLIP: BUILT_IN / "shapes-tiny" / "tokenizer"}
"""OpenAI's byte pairs, which every CLIP and OpenCLIP text encoder shares, lie with the model that ships."""


def byte_pairs(vocabulary: Vocabulary) -> tuple[Path, Path]:
    """Vocabulary and merges of byte pairs.

    Raises: ModelUnusable: they do not ship with this package.
    """
    try:
        folder = _FOLDERS[vocabulary]
    except KeyError:
        raise ModelUnusable(f"the vocabulary {vocabulary} does not ship with this worker yet") from None
    return folder / "vocab.json", folder / "merges.txt"
