"""A prompt as denoisers are given it: what all text encoders of a model make of it, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_engines.architectures.prompting import Lengths, Prompting
from trt_worker.condition.encode import Encoding

Text = Mapping[str, NDArray[np.float32]]
"""What a denoiser is given of one prompt, by its inputs: [tokens, features], or [features] of a whole prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """One encoded prompt. Arrays are shared with later callers and read-only."""

    text: Text
    notes: tuple[str, ...] = ()  # what of the prompt was left out


class PromptEncoding:
    """One prompt on its way through all text encoders of a model.

    Args: encodings: the prompt's, of each encoder in the order of `prompting`.
    """

    def __init__(self, prompting: Prompting, encodings: Sequence[Encoding]) -> None:
        self._prompting = prompting
        self._encodings = tuple(encodings)

    @property
    def done(self) -> bool:
        """Whether its result is there; never waits."""
        return all(one.done for one in self._encodings)

    def result(self) -> Conditioning:
        """Waits for it. Raises: NotFinite: a text encoder gave values that are not finite."""
        encoded = [one.result() for one in self._encodings]
        parts: dict[str, list[NDArray[np.float32]]] = {}
        for one in encoded:
            for name, values in one.outputs.items():
                parts.setdefault(name, []).append(values)
        text: dict[str, NDArray[np.float32]] = {name: _side_by_side(values) for name, values in parts.items()}
        if self._prompting.lengths is Lengths.MASKED and self._prompting.mask is not None:
            tokens = max(len(values) for values in text.values() if values.ndim == 2)
            text[self._prompting.mask] = np.ones(tokens, np.float32)  # rows that share a call are of one length
        notes = dict.fromkeys(note for one in encoded for note in one.notes)
        return Conditioning(text=text, notes=tuple(notes))


def _side_by_side(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Outputs for one input, joined along their features; encoders of one vocabulary make as many chunks of a prompt,
    and the shortest decides where they do not.

    Source: ComfyUI's sdxl_clip.py, which cuts both to the shorter one.
    """
    if len(parts) == 1:
        return parts[0]
    tokens = min(len(one) for one in parts) if parts[0].ndim == 2 else None
    joined = np.concatenate([one[:tokens] if tokens is not None else one for one in parts], axis=-1)
    joined.flags.writeable = False
    return joined
