"""Prompts to the context that the denoiser attends to."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_engines.errors import NotFinite
from trt_engines.sessions.host_calls import HostCall, HostCalls
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


class Encoding:
    """One prompt on its way through the text encoder."""

    def __init__(self, calls: Sequence[HostCall], needs: Encoding | None, finish: Callable[[], Conditioning]) -> None:
        self._calls = calls
        self._needs = needs
        self._finish: Callable[[], Conditioning] | None = finish  # None: it has
        self._result: Conditioning | None = None

    @property
    def done(self) -> bool:
        """Whether its result is there; never waits."""
        if self._result is not None:
            return True
        return all(call.done for call in self._calls) and (self._needs is None or self._needs.done)

    def result(self) -> Conditioning:
        """Waits for it. Raises: NotFinite: the text encoder gave values that are not finite."""
        if self._finish is not None:
            self._result = self._finish()
            self._calls, self._needs, self._finish = (), None, None  # they hold every layer, and the result one
        assert self._result is not None  # whoever finishes says with what
        return self._result


class Conditioner:
    """Encodes prompts with one text encoder and remembers the latest: negative prompts come again and again.

    Not for several threads at once: it belongs to whoever owns the engine.

    Args: calls: of the text encoder's engine.
    """

    def __init__(
        self, calls: HostCalls, tokenizer: Tokenizer, *, max_chunks: int = MAX_CHUNKS, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.calls = calls
        self._tokenizer = tokenizer
        self._max_chunks = max_chunks
        self._cache_bytes = cache_bytes
        self._layers, *_, self._features = calls.engine.tensor("context").shape
        self._known: OrderedDict[tuple[str, int], Encoding] = OrderedDict()  # under way or done, latest used last
        self._bytes: dict[tuple[str, int], int] = {}  # of the same

    def begin(self, prompt: str, clip_skip: int) -> Encoding:
        """Put a prompt into the text encoder's stream, unless it is known or under way.

        A weight w moves the encoding z of its token away from what an empty prompt has at the same position:
        z' = (z - z_empty) * w + z_empty.

        Args:
            prompt: text with emphasis, see `weights`.
            clip_skip: 1 is the last layer, 2 the one before; more than the text encoder has means the last again.
        Raises: EngineFault, OutOfMemory: the call was refused. ValueError: clip_skip < 1.
        Source: ComfyUI's prompt weighting, which does not bring the mean back to what it was.
        """
        if clip_skip < 1:
            raise ValueError(f"clip_skip is {clip_skip}, it starts at 1 (the last layer)")
        layer = clip_skip - 1 if clip_skip <= self._layers else 0
        key = (prompt, layer)
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
            return known
        chunks = chunk(parse_weights(prompt), self._tokenizer, most=self._max_chunks)
        most = self.calls.engine.rows
        parts = [chunks.ids[first : first + most] for first in range(0, len(chunks.ids), most)]
        calls = [self.calls.begin(len(ids), {"input_ids": ids}) for ids in parts]
        empty = self.begin("", clip_skip) if chunks.weighted else None

        def finish() -> Conditioning:
            try:
                z = np.concatenate([call.results()["context"][layer] for call in calls])
                if not np.isfinite(z).all():
                    raise NotFinite(f"{self.calls.engine.label}: the encoded prompt holds values that are not finite")
                if empty is not None:
                    z_empty = empty.result().context
                    z = (z - z_empty) * chunks.weights[:, :, np.newaxis] + z_empty
            except Exception:  # whatever it was: jobs with the same prompt try it again
                if self._known.get(key) is encoding:
                    self._forget(key)
                raise
            context = z.reshape(-1, z.shape[-1])
            context.flags.writeable = False
            return Conditioning(context=context, notes=chunks.notes)

        encoding = Encoding(calls, empty, finish)
        self._keep(key, encoding, chunks.ids.size * self._features * 4)
        return encoding

    def _keep(self, key: tuple[str, int], encoding: Encoding, size: int) -> None:
        """Know an encoding from its beginning, for nobody may ever ask for its result; the longest unused leave."""
        self._known[key], self._bytes[key] = encoding, size
        while sum(self._bytes.values()) > self._cache_bytes:
            self._forget(next(iter(self._known)))

    def _forget(self, key: tuple[str, int]) -> None:
        del self._known[key], self._bytes[key]


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
