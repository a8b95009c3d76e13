"""Prompts to the context that the denoiser attends to."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_engines.backend import Engine
from trt_engines.errors import EngineFault
from trt_engines.interface import CLIP_TOKENS
from trt_worker.condition.chunks import Tokenizer, chunk
from trt_worker.condition.weights import parse_weights

MAX_CHUNKS = 32
"""Chunks of one prompt that are encoded: more than a prompt of the longest legal size makes in any written language."""

CACHE_BYTES = 64 * 2**20
"""Contexts that are kept: about 280 short prompts of a model of 768 features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """One encoded prompt. The context is shared with later callers and read-only."""

    context: NDArray[np.float32]  # [77 * chunks, features]
    notes: tuple[str, ...] = ()  # what of the prompt was left out


class Conditioner:
    """Encodes prompts with one text encoder and remembers the latest: negative prompts come again and again.

    Not for several threads at once: it belongs to whoever owns the engine.
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, *, max_chunks: int = MAX_CHUNKS, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._max_chunks = max_chunks
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[tuple[str, int], Conditioning] = OrderedDict()
        self._cached_bytes = 0

    def encode(self, prompt: str, clip_skip: int) -> Conditioning:
        """The context of a prompt.

        A weight w moves the encoding z of its token away from what an empty prompt has at the same position:
        z' = (z - z_empty) * w + z_empty.

        Args:
            prompt: text with emphasis, see `weights`.
            clip_skip: 1 is the last layer, 2 the one before; more than the text encoder has means the last again.
        Raises: EngineFault: the text encoder failed or gave values that are not finite. ValueError: clip_skip < 1.
        Source: ComfyUI's prompt weighting, which does not bring the mean back to what it was.
        """
        if clip_skip < 1:
            raise ValueError(f"clip_skip is {clip_skip}, it starts at 1 (the last layer)")
        layer = clip_skip - 1 if clip_skip <= self._engine.outputs["context"].shape[0] else 0
        key = (prompt, layer)
        if (known := self._cached.get(key)) is not None:
            self._cached.move_to_end(key)
            return known
        chunks = chunk(parse_weights(prompt), self._tokenizer, most=self._max_chunks)
        z = self._run(chunks.ids, layer)
        if chunks.weighted:
            empty = self.encode("", clip_skip).context
            z = (z - empty) * chunks.weights[:, :, np.newaxis] + empty
        context = z.reshape(-1, z.shape[-1])
        context.flags.writeable = False
        conditioning = Conditioning(context=context, notes=chunks.notes)
        self._keep(key, conditioning)
        return conditioning

    def _run(self, ids: NDArray[np.int64], layer: int) -> NDArray[np.float32]:
        """Encode chunks; float32 [chunks, 77, features], a copy."""
        most = self._engine.spec.bucket.rows
        output = self._engine.outputs["context"]  # [layers, rows, 77, features]
        encoded = np.empty((len(ids), CLIP_TOKENS, output.shape[-1]), np.float32)
        for first in range(0, len(ids), most):
            rows = min(most, len(ids) - first)
            self._engine.inputs["input_ids"][:rows] = ids[first : first + rows]
            self._engine.run(rows)
            encoded[first : first + rows] = output[layer, :rows]
        if not np.isfinite(encoded).all():
            raise EngineFault(f"{self._engine.spec.label}: the encoded prompt holds values that are not finite")
        return encoded

    def _keep(self, key: tuple[str, int], conditioning: Conditioning) -> None:
        if conditioning.context.nbytes > self._cache_bytes:
            return
        self._cached[key] = conditioning
        self._cached_bytes += conditioning.context.nbytes
        while self._cached_bytes > self._cache_bytes:
            _, oldest = self._cached.popitem(last=False)
            self._cached_bytes -= oldest.context.nbytes


def common_tokens(*tokens: int) -> int:
    """The shortest length that contexts of these lengths can all be repeated to."""
    return math.lcm(*tokens)


def repeat_to(context: NDArray[np.float32], tokens: int) -> NDArray[np.float32]:
    """Repeat a context along its tokens, so that contexts of different lengths share an engine call.

    Exact for cross attention: a softmax over k identical copies gives each 1/k of the weight, and the sum is the same.
    Models that attend to text and image jointly need equal lengths instead.

    Args:
        context: [own tokens, features].
        tokens: length wanted, a multiple of the own tokens.
    """
    own = len(context)
    if tokens < own or tokens % own:
        raise ValueError(f"a context of {own} tokens cannot be repeated to {tokens}, which is no multiple of it")
    return context if tokens == own else np.tile(context, (tokens // own, 1))
