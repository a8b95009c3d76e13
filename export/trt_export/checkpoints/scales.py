"""Scales of float8 weights: under which names files keep them, and what they scale.

A weight is its stored values times its scale: one number, one for each row, or one for each block of a grid. A tensor
of another name that looks like a scale means a way to store weights that is not known here, and is refused: without
it the weight would be wrong by any factor, in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np

from trt_export.checkpoints.safetensors_file import StoredTensor, read_bytes

SCALES = (".scale_weight", ".weight_scale", ".weight_scale_inv")
"""Endings, in place of ".weight", of the names of scales: ComfyUI's scaled checkpoints have the first, ModelOpt's the
second, DeepSeek's and Qwen's blocks the third, whose numbers are multiplied with all the same."""

ACTIVATIONS = (".input_scale", ".scale_input", ".output_scale", ".scale_output", ".input_amax", ".output_amax")
"""Endings of the names of scales of what goes into a layer and comes out of it, which engines do not read."""

QUANTISATION = ".comfy_quant"
"""Ending of the name of ComfyUI's note on how a weight is stored: JSON as bytes."""

WORDS = ("scale", "absmax", "zero_point", "amax")
"""What the last part of the name of a scale has in it."""

PLAIN = frozenset({"format", "full_precision_matrix_mult"})
"""Words of that note that change nothing in the values."""

FLOATS: dict[str, type[np.generic]] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


class UnknownScale(Exception):
    """A weight's scale is of a kind that is not known; the message names it."""


def stem_of(name: str) -> str:
    """A weight's name without the ending that its scale has another one for."""
    return name.removesuffix(".weight")


def belongs_to(name: str) -> Iterator[str]:
    """Weights that a stored tensor may be a known scale of, or a note on."""
    for ending in (*SCALES, *ACTIVATIONS, QUANTISATION):
        if name.endswith(ending):
            stem = name.removesuffix(ending)
            yield from (f"{stem}.weight", stem)


class Scales:
    """The scales of a checkpoint's float8 weights."""

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = tensors
        self._inside: dict[str, list[str]] = {}
        for name in tensors:
            self._inside.setdefault(name.rpartition(".")[0], []).append(name)

    def of(self, weight: StoredTensor) -> np.ndarray:
        """The scale of a float8 weight: float32 of no axes, or of two, a number for each block of values; 1 without.

        Raises: UnknownScale.
        """
        stem = stem_of(weight.name)
        self._check(weight, stem)
        found = next((self._tensors[stem + ending] for ending in SCALES if stem + ending in self._tensors), None)
        if found is None:
            return np.ones((), np.float32)
        if found.dtype not in FLOATS:
            raise UnknownScale(f"its scale {found.name!r} is {found.dtype} {found.shape}")
        values = _float32(found)
        if values.size == 1:
            return values.reshape(())
        sides = tuple(one for one in weight.shape if one != 1)
        grid = found.shape if len(found.shape) > 1 else (*found.shape, 1)
        if len(sides) != len(grid) or any(side % cells for side, cells in zip(sides, grid, strict=True)):
            raise UnknownScale(
                f"its scale {found.name!r} is {found.dtype} {found.shape}: no grid of blocks over {weight.shape}"
            )
        return values.reshape(grid)

    def _check(self, weight: StoredTensor, stem: str) -> None:
        """Fail if a tensor beside a weight says of it what is not known here."""
        known = {stem + ending for ending in (*SCALES, *ACTIVATIONS)}
        parent = stem.rpartition(".")[0]
        beside = [name for name in self._inside.get(parent, ()) if name.startswith(f"{stem}_")]
        beside += self._inside.get(weight.name, [])
        if stem != weight.name:
            beside += self._inside.get(stem, [])
        for name in beside:
            last = name.rpartition(".")[2]
            if name not in known and any(word in last for word in WORDS):
                raise UnknownScale(f"beside it lies {name!r}, a scale of a kind that is not known")
        if note := self._tensors.get(stem + QUANTISATION):
            _check_note(note)


def _check_note(note: StoredTensor) -> None:
    """Fail unless ComfyUI's note says that a weight is float8 and nothing more is done to it."""
    try:
        said = json.loads(read_bytes(note))
        more = sorted(key for key, value in said.items() if key not in PLAIN and value)
    except (ValueError, AttributeError, RecursionError) as exc:
        raise UnknownScale(f"its note {note.name!r} cannot be read") from exc
    if said.get("format") != "float8_e4m3fn" or more:
        raise UnknownScale(f"its note {note.name!r} says {said!r:.200}")


def _float32(numbers: StoredTensor) -> np.ndarray:
    """Stored numbers as float32; the upper half of one is a bfloat16."""
    raw = np.frombuffer(read_bytes(numbers), FLOATS[numbers.dtype])
    if numbers.dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)
