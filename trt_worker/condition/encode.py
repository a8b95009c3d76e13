"""Prompts to what denoisers are given of them, by one text encoder."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_engines.architectures.prompting import TextEncoding
from trt_engines.errors import NotFinite
from trt_engines.sessions.host_calls import HostCall, HostCalls
from trt_worker.condition.chunks import Tokenizer, chunk
from trt_worker.condition.weights import Piece, parse_weights

MAX_CHUNKS = 32
"""Chunks of one prompt that are encoded: more than a prompt of the longest legal size makes in any written language."""

CACHE_BYTES = 64 * 2**20
"""Contexts that are kept: about 280 short prompts of a model of 768 features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One prompt, as one text encoder gives it. Arrays are shared with later callers and read-only."""

    outputs: Mapping[str, NDArray[np.float32]]  # by denoiser input: [tokens, features], or [features] of a whole prompt
    notes: tuple[str, ...] = ()  # what of the prompt was left out


class Encoding:
    """One prompt on its way through one text encoder."""

    def __init__(self, calls: Sequence[HostCall], needs: Encoding | None, finish: Callable[[], Encoded]) -> None:
        self._calls = calls
        self._needs = needs
        self._finish: Callable[[], Encoded] | None = finish  # None: it has
        self._result: Encoded | None = None

    @property
    def done(self) -> bool:
        """Whether its result is there; never waits."""
        if self._result is not None:
            return True
        return all(call.done for call in self._calls) and (self._needs is None or self._needs.done)

    def result(self) -> Encoded:
        """Waits for it. Raises: NotFinite: the text encoder gave values that are not finite."""
        if self._finish is not None:
            self._result = self._finish()
            self._calls, self._needs, self._finish = (), None, None  # they hold every layer, and the result one
        assert self._result is not None  # whoever finishes says with what
        return self._result


class Conditioner:
    """Encodes prompts with one text encoder and remembers the latest: negative prompts come again and again.

    Not for several threads at once: it belongs to whoever owns the engine.

    Args:
        calls: of the text encoder's engine.
        encoding: what the encoder does with a prompt. Raises: ValueError: it has no chunks.
    """

    def __init__(
        self,
        calls: HostCalls,
        tokenizer: Tokenizer,
        encoding: TextEncoding,
        *,
        max_chunks: int = MAX_CHUNKS,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if encoding.chunk is None:
            raise ValueError(f"{encoding.network} takes prompts in one row of any length, which is not served yet")
        self.calls = calls
        self._tokenizer = tokenizer
        self._encoding = encoding
        self._size = encoding.chunk
        self._max_chunks = max_chunks
        self._cache_bytes = cache_bytes
        self._ids, *_ = (one.name for one in calls.engine.interface.inputs)
        self._outputs = {name: calls.engine.tensor(name) for name in encoding.gives}
        self._layers = max((one.shape[0] for one in self._outputs.values() if one.row_axis == 1), default=1)
        self._known: OrderedDict[tuple[str, int], Encoding] = OrderedDict()  # under way or done, latest used last
        self._bytes: dict[tuple[str, int], int] = {}  # of the same

    def begin(self, prompt: str, clip_skip: int) -> Encoding:
        """Put a prompt into the text encoder's stream, unless it is known or under way.

        A weight w moves the encoding z of its token away from what an empty prompt has at the same position:
        z' = (z - z_empty) * w + z_empty. What stands for a whole prompt is that of its first chunk, without weights.

        Args:
            prompt: text with emphasis, see `weights`.
            clip_skip: 1 is the last layer, 2 the one before; more than the text encoder has means the last again. Of an
                encoder that gives one layer it has no effect.
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
        pieces = parse_weights(prompt) if self._encoding.weighted else [Piece(text=prompt, weight=1.0)]
        chunks = chunk(pieces, self._tokenizer, size=self._size, pad=self._encoding.pad, most=self._max_chunks)
        most = self.calls.engine.rows
        parts = [chunks.ids[first : first + most] for first in range(0, len(chunks.ids), most)]
        calls = [self.calls.begin(len(ids), {self._ids: ids}, layer) for ids in parts]
        empty = self.begin("", clip_skip) if chunks.weighted else None

        def finish() -> Encoded:
            try:
                results = [call.results() for call in calls]
                outputs = {}
                for name, destination in self._encoding.gives.items():
                    z = np.concatenate([result[name] for result in results])
                    if not np.isfinite(z).all():
                        raise NotFinite(
                            f"{self.calls.engine.label}: the encoded prompt holds values that are not finite"
                        )
                    if z.ndim == 3 and empty is not None:
                        z_empty = empty.result().outputs[destination]
                        z = (z - z_empty) * chunks.weights[:, :, np.newaxis] + z_empty
                    outputs[destination] = z.reshape(-1, z.shape[-1]) if z.ndim == 3 else z[0]
                    outputs[destination].flags.writeable = False
            except Exception:  # whatever it was: jobs with the same prompt try it again
                if self._known.get(key) is encoding:
                    self._forget(key)
                raise
            return Encoded(outputs=outputs, notes=chunks.notes)

        encoding = Encoding(calls, empty, finish)
        self._keep(key, encoding, len(chunks.ids) * self._bytes_of_chunk)
        return encoding

    @property
    def _bytes_of_chunk(self) -> int:
        """Of what is kept of one chunk."""
        return 4 * sum(one.shape[-1] * (self._size if len(one.shape) > 2 else 1) for one in self._outputs.values())

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
