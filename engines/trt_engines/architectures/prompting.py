"""How prompts become what denoisers are given of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Vocabulary(StrEnum):
    """The tokens that a text encoder knows."""

    CLIP = "clip"  # byte pairs of OpenAI's CLIP, which OpenCLIP shares: 49408, start 49406, end 49407
    T5 = "t5"  # SentencePiece: 32128, end 1
    QWEN3 = "qwen3"  # byte pairs of Qwen2 with its 26 added tokens: no start, no end


class Lengths(StrEnum):
    """Whether rows whose prompts have other lengths may share a call of a denoiser, and how."""

    REPEATED = "repeated"
    """Each is repeated to a common multiple. Exact for cross attention alone: a softmax over k copies of the same keys
    is the same (0.00000036 apart in float32). No other filling leaves the picture as it is."""
    EQUAL = "equal"  # they may not
    MASKED = "masked"  # each is filled up, and a mask says which tokens count


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What stands around a prompt when it is encoded."""

    before: str = ""
    after: str = ""
    cut: int = 0
    """Tokens of `before` whose states the denoiser does not look at. They stay in the context: its graph leaves them
    out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoding:
    """What one text encoder does with a prompt.

    An output that has a state for each token is joined along the tokens of all chunks; one that has no tokens (a pooled
    prompt) is that of the first chunk.
    """

    network: str
    vocabulary: Vocabulary
    pad: int  # token that fills up
    gives: Mapping[str, str]  # outputs of the network, to the denoiser inputs that they are for
    chunk: int | None = None  # tokens of one row, start and end among them; None: a prompt is one row, however long
    least: int = 1  # tokens: a shorter prompt is filled up
    most: int | None = None  # tokens: a longer prompt is cut; None: it is not
    template: Template = Template()
    weighted: bool = True  # `(red:1.3)` weighs what it holds; otherwise it is text like any other
    clip_skip: int | None = None
    """The layer, counted from the last as 1, of a job that names none. None: the encoder gives one layer only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompting:
    """How prompts become what denoisers are given of them."""

    encoders: tuple[TextEncoding, ...]  # outputs for one input are joined along their features in this order
    lengths: Lengths
    mask: str | None = None  # the denoiser's input that says which tokens count, where lengths are MASKED

    @property
    def filled(self) -> frozenset[str]:
        """The denoiser inputs that prompting fills."""
        given = {name for one in self.encoders for name in one.gives.values()}
        return frozenset(given if self.mask is None else given | {self.mask})
